"""Files of a Debian system that no package lists, because a package's script or a tool wrote them on that machine.

They are known by place alone: what such a file holds is not compared with anything.
"""

import re

from packager.attestation.tree import File

# Who writes it, and where (anchored, without the leading slash).
PLACES = {
    "adduser and passwd": r"etc/((passwd|group|shadow|gshadow|subuid|subgid)-?|\.pwd\.lock|security/opasswd)",
    "apt": r"etc/apt/sources\.list|etc/apt/sources\.list\.d/debian\.sources|var/lib/apt/(extended_states|(daily_)?lock)"
    r"|var/lib/apt/lists/.*|var/cache/apt/(archives/lock|(src)?pkgcache\.bin)",
    "base-files": r"etc/(motd|profile|nsswitch\.conf|environment|fstab|inputrc|dpkg/origins/default)"
    r"|root/\.(bashrc|profile)|usr/share/info/dir|usr/local/man|var/spool/mail",
    "ca-certificates": r"etc/ca-certificates\.conf|etc/ssl/certs/([^/]+\.(pem|crt|0|1)|java/cacerts)",
    "debconf": r"var/cache/debconf/(config|passwords|templates)\.dat(-old)?",
    "debianutils": r"etc/shells|var/lib/shells\.state",
    "dpkg": r"var/lib/dpkg/(status|diversions|statoverride|available|arch|lock|lock-frontend|cmethopt)(-old)?"
    r"|var/lib/dpkg/(info/[^/]+\.(list|md5sums|conffiles|preinst|postinst|prerm|postrm|triggers|templates|shlibs"
    r"|symbols|config)|info/format|triggers/[^/]+|alternatives/[^/]+|status\.d/[^/]+)",
    "init-system-helpers": r"etc/rc[0-6S]\.d/[SK]\d\d[^/]+|etc/systemd/system/([^/]+\.wants/)?[^/]+"
    r"|var/lib/systemd/deb-systemd-(helper|user-helper)-(enabled|masked)/.+",
    "ldconfig": r"etc/ld\.so\.cache|var/cache/ldconfig/aux-cache",
    "logs": r"var/log/(btmp|wtmp|faillog|lastlog|alternatives\.log|bootstrap\.log|dpkg\.log|fontconfig\.log"
    r"|apt/(history|term)\.log|apt/eipp\.log\.xz)",
    "pam-auth-update": r"etc/pam\.d/common-[a-z-]+|var/lib/pam/(seen|account|auth|password|session(-noninteractive)?)",
    "python3-minimal": r"etc/python3/debian_config|var/lib/python/python3\.\d+_installed",
    "tzdata": r"etc/(localtime|timezone)",
    "usrmerge": r"bin|sbin|lib|lib32|lib64|libx32",
}
_PLACE = re.compile("|".join(f"({pattern})" for pattern in PLACES.values()))
_ALTERNATIVES = "etc/alternatives/"


def is_generated(path: str, file: File) -> bool:
    """Whether a file lies in one of PLACES, or is a link that update-alternatives made."""
    if file.link is not None and (path.startswith(_ALTERNATIVES) or file.link.startswith(f"/{_ALTERNATIVES}")):
        return True
    return _PLACE.fullmatch(path) is not None
