"""Files of a Debian system that no package lists, because a package's script or a tool wrote them on that machine.

They are known by place alone: what such a file holds is not compared with anything.
"""

import re

from packager.attestation.tree import File

# Who writes it, and where: the whole path, without the leading slash.
PLACES = {
    "adduser, passwd": r"etc/((passwd|group|shadow|gshadow|subuid|subgid)-?|\.pwd\.lock|security/opasswd)",
    "apt": r"etc/apt/(sources\.list|sources\.list\.d/debian\.sources)|var/lib/apt/(extended_states|daily_lock|lists/.*)"
    r"|var/cache/apt/(archives/lock|(src)?pkgcache\.bin)",
    "base-files": r"etc/(motd|profile|nsswitch\.conf|environment|fstab|inputrc)|root/\.(bashrc|profile)"
    r"|usr/share/info/dir",
    "ca-certificates": r"etc/ca-certificates\.conf|etc/ssl/certs/ca-certificates\.crt",
    "debconf": r"var/cache/debconf/(config|passwords|templates)\.dat(-old)?",
    "debianutils": r"etc/shells|var/lib/shells\.state",
    "dpkg": r"var/lib/dpkg/((status|diversions|statoverride|available|arch|lock|lock-frontend|cmethopt)(-old)?"
    r"|info/[^/]+\.(list|md5sums|conffiles|preinst|postinst|prerm|postrm|triggers|templates|shlibs|symbols|config)"
    r"|info/format|triggers/[^/]+|alternatives/[^/]+|status\.d/[^/]+)",
    "init-system-helpers": r"var/lib/systemd/deb-systemd-(user-)?helper-(enabled|masked)/.+",
    "ldconfig": r"etc/ld\.so\.cache|var/cache/ldconfig/aux-cache",
    "logs": r"var/log/(btmp|wtmp|faillog|lastlog|(alternatives|bootstrap|dpkg|fontconfig)\.log"
    r"|apt/((history|term)\.log|eipp\.log\.xz))",
    "pam-auth-update": r"etc/pam\.d/common-[a-z-]+|var/lib/pam/(seen|account|auth|password|session(-noninteractive)?)",
    "python3-minimal": r"etc/python3/debian_config|var/lib/python/python3\.\d+_installed",
    "tzdata": r"etc/timezone",
}
# The same, of symbolic links alone.
LINKS = {
    "base-files": r"etc/dpkg/origins/default|usr/local/man|var/spool/mail",
    "ca-certificates": r"etc/ssl/certs/[^/]+",
    "init-system-helpers": r"etc/rc[0-6S]\.d/[SK]\d\d[^/]+|etc/systemd/system/.+",
    "tzdata": r"etc/localtime",
    "update-alternatives": r"etc/alternatives/[^/]+",
    "usrmerge": r"bin|sbin|lib|lib32|lib64|libx32",
}
_PLACE = re.compile("|".join(PLACES.values()))
_LINK = re.compile("|".join(LINKS.values()))


def is_generated(path: str, file: File) -> bool:
    """Whether a file lies in one of PLACES, a link in one of LINKS or points at an alternative."""
    if file.link is not None and (_LINK.fullmatch(path) or file.link.startswith("/etc/alternatives/")):
        return True
    return _PLACE.fullmatch(path) is not None
