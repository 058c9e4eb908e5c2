"""An executor: an object with a type and ``execute(task)``, for work that needs others to do it with."""

from collections.abc import Iterable

from actors import Permanent, register
from actors.context import CurrentTask


class Cloud:
    """A cloud of which the newsroom rents machines."""

    def __init__(self, machines: dict[str, list[str]]) -> None:
        self._machines = machines

    def machines(self, region: str) -> Iterable[str]:
        """The machines of a region."""
        return self._machines.get(region, ())


class SyncAssets:
    """Writes down which machines there are: ``{provider, asset_types, regions?}``."""

    type = "sync_assets"

    def __init__(self, clouds: dict[str, Cloud]) -> None:
        self._clouds = clouds
        self._known: set[str] = set()

    def execute(self, task: CurrentTask) -> None:
        """Look at one region after the other, and count what is new."""
        provider = task.payload.get("provider")
        if provider not in self._clouds:
            raise Permanent(f"nobody here knows the provider {provider!r}")
        regions = task.payload.get("regions") or ["cn-shenzhen", "cn-beijing"]
        found: set[str] = set()
        for number, region in enumerate(regions):
            task.progress(step=region, done=number, total=len(regions), message=f"正在同步地域 {region}")
            found.update(self._clouds[provider].machines(region))
        new = found - self._known
        self._known |= new
        task.result = {
            "total_count": len(found),
            "added_count": len(new),
            "updated_count": len(found) - len(new),
        }


sync_assets = register(
    SyncAssets({"aliyun": Cloud({"cn-shenzhen": ["i-1", "i-2"], "cn-beijing": ["i-3"]})}), queue="assets"
)
