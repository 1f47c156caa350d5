"""An image with blackstart[kubernetes] for a cluster without a registry, as the Dockerfile would build it: devkube's Python below, and a
layer with what is installed for these tests, as an archive that `devkube load` takes. Nothing is fetched from anywhere.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT.parent / "shared" / "kube" / "python.tar.zst"
ROOMS = ("commands", "drills", "injectors", "reports", "scenarios")
HOME = "opt/blackstart"
COMMAND = f"#!/usr/bin/env python3\nimport sys\nsys.path.insert(0, '/{HOME}/lib')\nfrom blackstart.cli import main\nmain()\n"


def build(folder: Path) -> tuple[Path, str]:
    """The archive, and what the image is called: by its content, so that a node never takes an older one for it."""
    layer = _layer()
    name = f"devkube/blackstart:{hashlib.sha256(layer).hexdigest()[:12]}"
    archive = folder / f"{name.rpartition(':')[2]}.tar"
    with subprocess.Popen(["zstd", "-dcq", BASE], stdout=subprocess.PIPE) as source, tarfile.open(archive, "w") as made:
        kept: dict[str, bytes] = {}
        with tarfile.open(fileobj=source.stdout, mode="r|") as base:
            for each in base:
                content = base.extractfile(each)
                if each.name.endswith(".json"):
                    kept[each.name] = content.read() if content else b""
                else:
                    made.addfile(each, content)
        (about,) = json.loads(kept["manifest.json"])
        config = json.loads(kept[about["Config"]])
        config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(layer).hexdigest()}")
        config["history"].append({"created_by": "blackstart's tests"})
        config["config"]["Env"] = [
            f"PATH=/{HOME}/bin:{each.removeprefix('PATH=')}" if each.startswith("PATH=") else each
            for each in config["config"]["Env"]
        ]
        whole = json.dumps(config).encode()
        about |= {"Config": f"{hashlib.sha256(whole).hexdigest()}.json", "RepoTags": [f"docker.io/{name}"]}
        about["Layers"] = [*about["Layers"], "blackstart/layer.tar"]
        for path, content in {
            about["Config"]: whole,
            "blackstart/layer.tar": layer,
            "manifest.json": json.dumps([about]).encode(),
        }.items():
            _add(made, path, content)
    return archive, name


def _layer() -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as layer:
        _add(layer, f"{HOME}/bin/blackstart", COMMAND.encode(), 0o755)
        for name, path in sorted(_tree()):
            layer.add(path, f"{HOME}/lib/{name}", recursive=False, filter=_nobodys)
        ours = distribution("blackstart")
        for name, content in {
            "METADATA": f"Metadata-Version: 2.1\nName: blackstart\nVersion: {ours.version}\n",
            "entry_points.txt": ours.read_text("entry_points.txt") or "",
        }.items():
            _add(layer, f"{HOME}/lib/blackstart-{ours.version}.dist-info/{name}", content.encode())
    return written.getvalue()


def _nobodys(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    archive.addfile(info, io.BytesIO(content))


def _tree() -> Iterator[tuple[str, Path]]:
    """Every file below `lib`, by its name there: the package from this tree, all that it depends on as it is installed here."""
    here = [*ROOT.glob("*.py"), ROOT / "py.typed", *(path for room in ROOMS for path in (ROOT / room).rglob("*"))]
    for path in here:
        if path.is_file():
            yield f"blackstart/{path.relative_to(ROOT)}", path
    for each in _needed("blackstart", {"kubernetes"}, {}):
        for file in each.files or () if each.name != "blackstart" else ():
            path = Path(str(file.locate()))
            if path.is_file() and ".." not in file.parts:
                yield str(file), path


def _needed(name: str, extras: set[str], found: dict[str, Distribution]) -> list[Distribution]:
    """That distribution and all that it requires, once each."""
    if name not in found:
        found[name] = distribution(name)
        for line in found[name].requires or ():
            wanted = Requirement(line)
            marker = wanted.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                _needed(wanted.name, wanted.extras, found)
    return list(found.values())
