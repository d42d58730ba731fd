"""Who made the models, and under which licence they may be used."""

import csv
import shutil
import zipfile
from pathlib import Path

from data_scripts.sweethome import Entry

NOTICE, CARD = (Path(__file__).with_name(name) for name in ("furniture_licence.txt", "furniture_card.md"))


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
    (folder / "LICENSE").write_text(NOTICE.read_text(encoding="utf-8").format(summary=summary), encoding="utf-8")
    shutil.copyfile(CARD, folder / "README.md")
