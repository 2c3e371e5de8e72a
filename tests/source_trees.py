"""Small folders of images of several sources, to be prepared as `folder/NAME`."""

import cv2
import numpy as np

SPLITS = {"train": 12, "validation": 6, "test": 6}


def table(root, *, seed, counts=None, masks=False):
    """Writes images and their table below `root`; returns the path of the table.

    Args:
      root: made if it is missing.
      seed: of the pixels.
      counts: images of each class in each split; default: as many of COVID-19 as normal ones.
      masks: each image has masks of lungs and lesion.
    """
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows = ["path,label,patient,split" + (",lung_mask,lesion_mask" if masks else "")]
    counts = counts or {
        split: {"COVID-19": n // 2, "normal": n // 2} for split, n in SPLITS.items()
    }
    for split, classes in counts.items():
        for label, count in classes.items():
            for i in range(count):
                name = f"{split}-{label}-{i}.png"
                image = cv2.resize(rng.integers(0, 255, (9, 9), np.uint8), (70, 70))
                lungs, lesion = (np.zeros((70, 70), np.uint8) for _ in range(2))
                lungs[10:60, 10:60], lesion[20:35, 20 : 30 + i] = 255, 255
                if label == "COVID-19":
                    image[lesion > 0] = 250
                cv2.imwrite(str(root / name), image)
                row = f"{name},{label},{split}-{label}-p{i // 2},{split}"
                if masks:
                    for kind, mask in (("lungs", lungs), ("lesion", lesion)):
                        cv2.imwrite(str(root / f"{kind}-{name}"), mask)
                        row += f",{kind}-{name}"
                rows.append(row)
    path = root / "table.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def prepare_source(name, data_dir, root, **options):
    """Prepares `folder/NAME` from a made-up table; see `table`."""
    from jaxcovid import prepare

    return prepare.build(f"folder/{name}", data_dir, csv=str(table(root / name, **options)))
