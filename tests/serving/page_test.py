"""The page in a real browser: Chromium, driven by Playwright."""

import base64
import csv
import os
import shutil
import sys
import zipfile

import pages
import pytest
import runs
from dicom_series import series

from jaxcovid.weights.export.export import export

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if not CHROMIUM:
    pytest.skip("there is no chromium", allow_module_level=True)
for needed in ("fastapi", "uvicorn"):
    pytest.importorskip(needed)
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
expect = playwright.expect

WAIT_MS = 60_000  # far beyond what anything takes on a busy machine


@pytest.fixture
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(browser, address, **options):
    """The page, ready; what it says on the console is an error."""
    page = browser.new_page(**{"viewport": {"width": 1400, "height": 950}, **options})
    page.set_default_timeout(WAIT_MS)
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "console",
        lambda said: page.problems.append(said.text) if said.type in ("error", "warning") else None,
    )
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    return page


def upload(page, *files):
    page.set_input_files("#file-input", [str(file) for file in files])


def wait_for_cases(page, count):
    expect(page.locator("#cases li")).to_have_count(count, timeout=WAIT_MS)
    page.wait_for_selector("#progress", state="hidden")


def loaded(page):
    """The number of the slice whose pictures are shown, once they are."""
    page.wait_for_selector("#panes[data-loaded]")
    return page.get_attribute("#panes", "data-loaded")


def pixel_count(page, layer, network=0):
    """How many pixels of a layer can be seen; of the slice those that are not black."""
    return page.locator(f"figure[data-network='{network}'] .{layer}").evaluate(
        """async (image) => {
          if (image.hidden || !image.src) return 0;
          await image.decode();
          const canvas = document.createElement("canvas");
          canvas.width = image.naturalWidth;
          canvas.height = image.naturalHeight;
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4) {
            count += data[i + 3] > 0 && data[i] + data[i + 1] + data[i + 2] > 0;
          }
          return count;
        }"""
    )


def files(tmp_path):
    (tmp_path / "scan.png").write_bytes(pages.picture())
    (tmp_path / "text.png").write_bytes(b"no image")
    pages.volume(tmp_path / "scan.nii.gz")
    return tmp_path


def test_pictures_are_screened_and_bad_ones_named(browser, tmp_path):
    _, address = pages.start()
    page, folder = visit(browser, address), files(tmp_path)
    upload(page, folder / "scan.png", folder / "text.png")
    wait_for_cases(page, 1)
    expect(page.locator("#answers .probability b")).to_have_text("46 %")
    expect(page.locator("#answers")).to_contain_text("not COVID-19")
    expect(page.locator("#answers")).to_contain_text("Share of the lungs involved")
    expect(page.locator("#problems summary")).to_have_text("1 files were not screened")
    page.click("#problems summary")
    expect(page.locator("#problems li")).to_contain_text("text.png no readable image")
    # A prevalence moves the meaning, not the answer.
    page.fill("#prevalence", "1")
    expect(page.locator(".meaning")).to_contain_text("Where 1 of 100 images show COVID-19")
    expect(page.locator(".meaning")).to_contain_text("of 100 with this answer 3 do")
    page.click("text=What it may be confounded by")
    expect(page.locator("#answers")).to_contain_text("training images closest in it")
    # Layers.
    assert loaded(page) == "0"
    assert pixel_count(page, "gray") > 0
    assert 0 < pixel_count(page, "contours") < 64 * 64 / 2
    assert pixel_count(page, "heatmap") == 0
    page.locator("#heatmap").fill("0.5")
    page.wait_for_selector("figure .heatmap:not([hidden])")
    assert pixel_count(page, "heatmap") == 64 * 64
    expect(page.locator("figure .heatmap")).to_have_css("opacity", "0.5")
    page.locator("#contours").fill("0")
    page.wait_for_selector("figure .contours", state="hidden")
    # The window: nothing is brighter than its upper edge.
    before = pixel_count(page, "gray")
    page.locator("#centre").fill("250")
    page.locator("#width").fill("20")
    expect(page.locator("#centre-text")).to_have_text("250")
    page.wait_for_timeout(1000)
    assert pixel_count(page, "gray") < before / 4
    assert page.problems == []


def test_names_are_texts(browser, tmp_path):
    """Whatever a file is called, the page shows its letters."""
    _, address = pages.start()
    page, name = visit(browser, address), "<img src=x onerror=alert(1)>$x$\u202e.png"
    for each, content in ((name, pages.picture()), (f"bad{name}", b"no image")):
        (tmp_path / each).write_bytes(content)
        upload(page, tmp_path / each)
    wait_for_cases(page, 1)
    shown = name.replace("\u202e", "\ufffd")
    expect(page.locator("#cases .name")).to_have_text(shown)
    expect(page.locator("#case-title")).to_have_text(shown)
    expect(page.locator("#problems li b")).to_have_text(f"bad{shown}")
    assert page.locator("img[src=x]").count() == 0
    assert page.problems == []


def test_a_volume_is_scrolled_and_jumps_to_the_most_suspicious_slice(browser, tmp_path):
    _, address = pages.start()
    page, folder = visit(browser, address), files(tmp_path)
    upload(page, folder / "scan.nii.gz")
    wait_for_cases(page, 1)
    expect(page.locator("#slice-text")).to_have_text("8 of 12")  # which is the brightest
    expect(page.locator("#strip rect")).to_have_count(12)
    page.focus("#slice")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#slice-text")).to_have_text("9 of 12")
    page.keyboard.press("Home")
    expect(page.locator("#slice-text")).to_have_text("1 of 12")
    expect(page.locator("#panes")).to_have_attribute("data-loaded", "0")
    expect(page.locator("#previous")).to_be_disabled()
    page.click("#next")
    expect(page.locator("#slice-text")).to_have_text("2 of 12")
    page.hover("#panes")
    page.mouse.wheel(0, 100)
    expect(page.locator("#slice-text")).to_have_text("3 of 12")
    box = page.locator("#strip").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.99, box["y"] + 5)
    expect(page.locator("#slice-text")).to_have_text("12 of 12")
    page.click("#suspicious")
    expect(page.locator("#slice-text")).to_have_text("8 of 12")
    page.click("text=Mediastinum")
    expect(page.locator("#centre-text")).to_have_text("40")
    expect(page.locator("#prevalence-control")).to_be_hidden()  # no mean is calibrated
    assert page.problems == []


def test_folders_zip_files_and_series_are_taken(browser, tmp_path):
    """By the button for folders, and dropped."""
    _, address = pages.start()
    page, folder = visit(browser, address), tmp_path / "patients"
    for number, content in enumerate(series("one", 3)):
        path = folder / "first" / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / ".hidden.png").write_bytes(pages.picture())
    with zipfile.ZipFile(folder / "two.zip", "w") as archive:
        archive.writestr("a/scan.png", pages.picture(seed=1))
        archive.writestr("b/scan.png", pages.picture(seed=2))
    page.set_input_files("#folder-input", str(folder))
    wait_for_cases(page, 3)
    shown = " ".join(page.locator("#cases .name").all_inner_texts())
    assert "patients/first/" in shown
    assert "a/scan.png" in shown
    assert "b/scan.png" in shown
    expect(page.locator("#cases")).to_contain_text("series, 3 slices")
    content = base64.b64encode(pages.picture(seed=3)).decode()
    dropped = page.evaluate_handle(
        """(content) => {
          const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
          return data;
        }""",
        content,
    )
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": dropped})
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    wait_for_cases(page, 4)
    expect(page.locator("#cases")).to_contain_text("dropped.png")
    assert page.problems == []


def test_a_moving_window_loads_the_slice_and_not_what_lies_over_it(browser, tmp_path):
    _, address = pages.start("first,second")
    page, folder = visit(browser, address), files(tmp_path)
    upload(page, folder / "scan.nii.gz")
    wait_for_cases(page, 1)
    page.wait_for_selector("figure[data-network='1'] .contours:not([hidden])")
    page.wait_for_timeout(1500)  # until nothing more is asked for
    asked = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    page.click("text=Mediastinum")
    page.wait_for_timeout(1500)
    pictures = [each for each in asked if ".png" in each]
    assert len(pictures) == 1  # which both networks show
    assert pictures[0].startswith("image.png?network=0&centre=40&width=400")
    page.click("#next")
    page.wait_for_timeout(1500)
    pictures = [each.partition("?")[0] for each in asked if ".png" in each]
    assert sorted(pictures) == ["contours.png"] * 2 + ["image.png"] * 2
    assert page.problems == []


def test_networks_are_compared_and_results_saved(browser, tmp_path):
    kept = tmp_path / "kept"
    process, address = pages.start("first,second", f"keep={kept}")
    page, folder = visit(browser, address), files(tmp_path)
    upload(page, folder / "scan.png", folder / "scan.nii.gz")
    wait_for_cases(page, 2)
    expect(page.locator("#panes figure")).to_have_count(2)
    expect(page.locator("#answers article h3")).to_have_text(["first", "second"])
    page.get_by_role("checkbox", name="second").uncheck()
    expect(page.locator("#panes figcaption")).to_have_text(["first"])
    saved = {}
    for button in ("#save-table", "#save-picture", "#save-report"):
        with page.expect_download() as download:
            page.click(button)
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        saved[path.name] = path
    rows = list(csv.DictReader(saved["jaxcovid.csv"].open()))
    assert len(rows) == 2 * (1 + 1) + 2 * (12 + 1)
    assert saved["jaxcovid_slice.png"].read_bytes().startswith(b"\x89PNG")
    assert saved["jaxcovid_report.pdf"].read_bytes().startswith(b"%PDF")
    page.close(run_before_unload=True)
    runs.wait(lambda: len(list(kept.glob("*.pdf"))) == 2, process)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_everybody_can_read_and_use_it(browser, tmp_path, scheme, width):
    _, address = pages.start("first,second")
    page = visit(
        browser,
        address,
        color_scheme=scheme,
        viewport={"width": width, "height": 900},
        bypass_csp=True,  # of the checker, which is put into the page
    )
    folder = files(tmp_path)
    upload(page, folder / "scan.nii.gz", folder / "text.png")
    wait_for_cases(page, 1)
    loaded(page)
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0  # nothing has to be scrolled sideways
    # By keyboard alone: to the case, to its slice, to the report.
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"choose-files", "slice", "centre", "heatmap", "save-report", "suspicious"} <= reached


def test_the_command_serves_a_real_network_to_who_has_the_token(browser, trained, tmp_path):
    pytest.importorskip("onnxruntime")
    exported = export(trained, "onnx", output=tmp_path / "exported")
    token = "a-token-of-this-test"
    words = [sys.executable, "-m", "jaxcovid.serve", f"--model={exported}", "--port=0"]
    environment = {"JAXCOVID_TOKEN": token, **os.environ}
    _, address = pages.start(words=words, env=environment)
    assert address.endswith(f"#token={token}")
    page = visit(browser, address)
    assert token not in page.url
    (tmp_path / "scan.png").write_bytes(pages.picture())
    upload(page, tmp_path / "scan.png")
    wait_for_cases(page, 1)
    shown = page.locator("#answers .probability b").inner_text()
    (case,) = pages.client(address).screen(tmp_path / "scan.png")["cases"]
    (probability,) = case["findings"][0]["probabilities"].values()
    assert abs(100 * probability - float(shown.rstrip(" %"))) <= 0.5
    assert page.problems == []
