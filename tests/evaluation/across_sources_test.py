"""One network on several sources."""

import json

import cv2
import numpy as np


def other_blobs(folder):
    """The blobs of other patients, darker, as a folder with a table."""
    rng = np.random.default_rng(7)
    folder.mkdir()
    rows = ["path,label,patient,split"]
    for i in range(60):
        image = rng.integers(0, 60, (40, 40), np.uint8)
        if i % 2:
            cv2.circle(image, tuple(map(int, rng.integers(12, 28, 2))), 9, 160, -1)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        split = "train" if i < 16 else "validation" if i < 20 else "test"
        rows.append(f"{i}.png,{'COVID-19' if i % 2 else 'normal'},q{i},{split}")
    (folder / "table.csv").write_text("\n".join(rows))
    return folder


def test_evaluate_sources(command, trained, data_dir, tmp_path):
    folder, where = other_blobs(tmp_path / "other"), f"--data_dir={data_dir}"
    command("prepare", "folder", "--name=other", f"--csv={folder}/table.csv", where)
    command("evaluate", f"--workdir={trained}", "--sources=folder/blobs,folder/other", where)
    result = json.loads((trained / "evaluation" / "sources.json").read_text())
    own, other = result["sources"]
    assert (own["dataset"], own["trained_on"]) == ("folder/blobs", True)
    assert (other["dataset"], other["trained_on"], other["n"]) == ("folder/other", False, 40)
    report = trained / "evaluation" / "folder" / "other" / "test" / "metrics.json"
    assert json.loads(report.read_text())["auc"] == other["auc"]
    assert set(result["telling"]) == {"positive", "negative"}
    table = (trained / "evaluation" / "sources.md").read_text()
    assert "| folder/other | no" in table
    refused = command(
        "evaluate", f"--workdir={trained}", "--sources=folder/blobs", where, check=False
    )
    assert refused.returncode
    assert "give two data sets or more" in refused.stderr
