#!/usr/bin/env python3
"""Opens a report in headless Chromium and says what is wrong: errors on its console, pictures that are not loaded, a page
wider than its window; at 400 and 1600 pixels, light and dark. Saves screenshots.

    target/release/vdm report digits -o /tmp/report.html && python3 scripts/report_browser.py /tmp/report.html /tmp/screens

Needs Chromium (Debian: chromium).
"""

import pathlib
import re
import subprocess
import sys
import tempfile

CHECK = """<script>
addEventListener("load", () => {
  const broken = [...document.images].filter(image => !image.complete || !image.naturalWidth).length;
  const wide = document.documentElement.scrollWidth > innerWidth + 1;
  document.body.dataset.check = `images ${document.images.length} broken ${broken} wide ${wide} charts ${document.querySelectorAll("svg").length}`;
});
</script>"""

page, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
wrong = []
with tempfile.TemporaryDirectory() as folder:
    checked = pathlib.Path(folder) / "checked.html"
    checked.write_text(page.read_text().replace("</body>", CHECK + "</body>"))
    for width in (400, 1600):
        for scheme in ("light", "dark"):
            command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},2400",
                       "--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={folder}/{width}{scheme}"]
            command += ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
            shot = out / f"{page.stem}-{width}-{scheme}.png"
            run = subprocess.run([*command, f"--screenshot={shot}", f"file://{checked}"], capture_output=True, text=True, timeout=120)
            wrong += [line for line in run.stderr.splitlines() if "CONSOLE" in line]
            run = subprocess.run([*command, "--dump-dom", f"file://{checked}"], capture_output=True, text=True, timeout=120)
            found = re.search(r'data-check="images (\d+) broken (\d+) wide (\w+) charts (\d+)"', run.stdout)
            if not found:
                wrong.append(f"{width} {scheme}: the page did not load")
                continue
            images, broken, wide, charts = found.groups()
            print(f"{width} {scheme}: {images} pictures, {charts} charts, {shot}")
            if broken != "0" or images == "0" or charts == "0":
                wrong.append(f"{width} {scheme}: {broken} of {images} pictures are broken, {charts} charts")
            if wide == "true":
                wrong.append(f"{width} {scheme}: the page is wider than its window")
print("\n".join(wrong) or "nothing is wrong")
sys.exit(bool(wrong))
