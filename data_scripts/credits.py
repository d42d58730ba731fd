"""Who made the models, and under which licence they may be used."""

import csv
import zipfile
from pathlib import Path

from data_scripts.sweethome import Entry

NOTICE = """\
The images, normal maps and meshes in this folder are derived from the Sweet Home 3D furniture libraries.
Each model keeps the licence of its library, or its own where that differs;
ATTRIBUTION.csv names model, creator, licence and library.
The libraries' own licence texts are in licenses/.

Changes made: models were centred, scaled, stretched, recoloured and rendered; the stored meshes keep the
visible surface only, with fewer faces and without textures.

{summary}

CC0-1.0: https://creativecommons.org/publicdomain/zero/1.0/
CC-BY-3.0: https://creativecommons.org/licenses/by/3.0/
CC-BY-3.0-US: https://creativecommons.org/licenses/by/3.0/us/
"""

CARD = """\
---
configs:
- config_name: default
  data_files: metadata.parquet
---
# furniture
Rendered images of furniture with masks (alpha), normals, viewpoints, meshes and captions.
`dataset.json` explains the columns, `LICENSE` and `ATTRIBUTION.csv` say whose models these are.

    from datasets import Image, load_dataset
    rows = load_dataset("FOLDER", split="train").filter(lambda row: row["split"] == "train")
    rows = rows.map(lambda row: {"image": "FOLDER/" + row["image"]}).cast_column("image", Image())

The package's own reader is `lib.data.prepared.read_prepared("FOLDER")`.
"""


def write_credits(folder: Path, entries: list[Entry], source: Path) -> None:
    """Write ATTRIBUTION.csv, LICENSE, licenses/<library>.txt and the card that Hugging Face ``datasets`` reads."""
    with (folder / "ATTRIBUTION.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "category", "name", "creator", "licence", "pack"])
        for entry in sorted(entries, key=lambda entry: entry.model):
            writer.writerow([entry.model, entry.category, entry.name, entry.creator, entry.licence, entry.pack])
    packs = sorted({entry.pack for entry in entries})
    (folder / "licenses").mkdir(exist_ok=True)
    for pack in packs:
        with zipfile.ZipFile(source / f"{pack}.sh3f") as library:
            (folder / "licenses" / f"{pack}.txt").write_bytes(library.read("LICENSE.TXT"))
    summary = "\n".join(
        f"{pack}: {', '.join(sorted({e.licence for e in entries if e.pack == pack}))}" for pack in packs
    )
    (folder / "LICENSE").write_text(NOTICE.format(summary=summary), encoding="utf-8")
    (folder / "README.md").write_text(CARD, encoding="utf-8")
