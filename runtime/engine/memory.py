"""How much memory this process may still take, on the host, in its container or on its GPU."""

from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes(device: torch.device) -> int:
    """Free bytes on the device; for the CPU the lesser of the host's and the container's (cgroup v2 or v1)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_host_available(), _cgroup_available("memory.max", "memory.current")]
    free.append(_cgroup_available("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
    return min(value for value in free if value is not None)


def _host_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


def _cgroup_available(limit_name: str, usage_name: str) -> int | None:
    limit_file, usage_file = _CGROUP / limit_name, _CGROUP / usage_name
    try:
        limit, usage = limit_file.read_text().strip(), int(usage_file.read_text())
        stat = dict(line.split() for line in (limit_file.parent / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Page cache counts as used, but is given up when a process asks for memory.
    cache = int(stat.get("file", stat.get("cache", 0)))
    return max(int(limit) - usage + cache, 0) if limit.isdigit() else None
