"""Who made the models, and under which licence they may be used."""

import csv
import zipfile
from pathlib import Path

from data_scripts.sweethome import LICENCES, Entry

NOTICE = """\
The images, normal maps and meshes in this folder are derived from the Sweet Home 3D furniture libraries.
Each model keeps the licence of its library; ATTRIBUTION.csv names model, creator, licence and library.
The libraries' own licence texts are in licenses/.

Changes made: models were centred, scaled, stretched, recoloured and rendered; the stored meshes keep the
visible surface only, with fewer faces and without textures.

{summary}
"""


def write_credits(folder: Path, entries: list[Entry], source: Path) -> None:
    """Write ATTRIBUTION.csv, LICENSE and licenses/<library>.txt."""
    with open(folder / "ATTRIBUTION.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "category", "name", "creator", "licence", "pack"])
        for entry in sorted(entries, key=lambda entry: entry.model):
            licence = LICENCES[entry.pack]
            writer.writerow([entry.model, entry.category, entry.name, entry.creator, licence, entry.pack])
    packs = sorted({entry.pack for entry in entries})
    (folder / "licenses").mkdir(exist_ok=True)
    for pack in packs:
        with zipfile.ZipFile(source / f"{pack}.sh3f") as library:
            (folder / "licenses" / f"{pack}.txt").write_bytes(library.read("LICENSE.TXT"))
    summary = "\n".join(f"{pack}: {LICENCES[pack]}" for pack in packs)
    (folder / "LICENSE").write_text(NOTICE.format(summary=summary), encoding="utf-8")
