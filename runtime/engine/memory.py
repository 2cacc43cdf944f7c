"""How much memory this process may still take, on the host, in its container or on its GPU."""

from pathlib import Path

import torch

from runtime.engine import cgroup


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
    limit, usage = cgroup.read(limit_name), cgroup.read(usage_name)
    stat_lines = cgroup.read(str(Path(limit_name).with_name("memory.stat")))
    if limit is None or usage is None or stat_lines is None or not limit.isdigit():
        return None
    stat = dict(line.split() for line in stat_lines.splitlines())
    # Page cache counts as used, but is given up when a process asks for memory.
    cache = int(stat.get("file", stat.get("cache", 0)))
    return max(int(limit) - int(usage) + cache, 0)
