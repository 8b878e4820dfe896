"""Take docs/images/report.png: the first screen of a report, as a headless Chromium shows it.

From the top of the tree, after `harness run lenet`:
PYTHONPATH=tests python docs/picture.py results/lenet/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path

from chromium import chromium
from PIL import Image

OUT = Path(__file__).parent / "images" / "report.png"

if __name__ == "__main__":
    with chromium() as browser:
        browser.open(Path(sys.argv[1]), width=1200, height=1040)
        browser.run("document.documentElement.style.overflow = 'hidden'")
        browser.screenshot(OUT)
    Image.open(OUT).quantize(96).save(OUT, optimize=True)  # a third of the size, and text stays sharp
    print(f"{OUT}: {OUT.stat().st_size / 1000:.0f} kB")
