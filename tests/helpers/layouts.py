"""Small data sets in the form of published ones, and of what people have.

A function a layout: makes it below a folder, returns the layout's name and for each class how many
images there are to find: for training, validation, test (good and defective), and masks.
"""

import json

import numpy as np
from PIL import Image

SIZE = (8, 6)


def write(path, value=0, size=SIZE, spot=None):
    """A grey file; ``spot``: the only pixel that is not ``value``, as (y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(size, value, np.uint8)
    if spot is not None:
        pixels[spot] = 255
    Image.fromarray(pixels).save(path)
    return path


def mvtec_ad_2(root):
    """Image names tell the light; test images without labels lie in folders of their own."""
    for name in ("can", "fabric"):
        for i in range(4):
            write(root / name / f"train/good/{i:03}_regular.png", i)
        for i in range(2):
            write(root / name / f"validation/good/{i:03}_regular.png", i)
        for light in ("regular", "overexposed"):
            write(root / name / f"test_public/good/000_{light}.png")
            write(root / name / f"test_public/bad/001_{light}.png")
            write(root / name / f"test_public/ground_truth/bad/001_{light}_mask.png", spot=(1, 1))
        write(root / name / "test_private/000.png")
        write(root / name / "test_private_mixed/000_mixed.png")
    (root / "license.txt").write_text("x", encoding="utf-8")
    return "mvtec ad 2", dict.fromkeys(("can", "fabric"), (4, 2, 2, 2, 2))


def mvtec_loco(root):
    """A folder of masks an image."""
    name = root / "pushpins"
    for i in range(4):
        write(name / f"train/good/{i:03}.png", i)
    for i in range(3):
        write(name / f"validation/good/{i:03}.png", i)
    write(name / "test/good/000.png")
    for kind in ("logical_anomalies", "structural_anomalies"):
        for i in range(2):
            write(name / f"test/{kind}/{i:03}.png")
            for j in range(i + 1):
                write(name / f"ground_truth/{kind}/{i:03}/{j:03}.png", spot=(j, 3))
    (name / "defects_config.json").write_text("[]", encoding="utf-8")
    return "mvtec loco", {"pushpins": (4, 3, 1, 4, 4)}


def mpdd(root):
    name = root / "bracket_black"
    for i in range(3):
        write(name / f"train/good/{i:03}.png", i)
    write(name / "test/good/000.png")
    for kind in ("hole", "scratches"):
        write(name / f"test/{kind}/000.png")
        write(name / f"ground_truth/{kind}/000_mask.png", spot=(1, 1))
    return "mvtec", {"bracket_black": (3, 0, 1, 2, 2)}


def btad(root):
    """Class 03 has images of another format than its masks."""
    for name, image in (("01", "bmp"), ("02", "png"), ("03", "bmp")):
        for i in range(3):
            write(root / name / f"train/ok/{i:04}.{image}", i)
        write(root / name / f"test/ok/0000.{image}")
        write(root / name / f"test/ko/0001.{image}")
        write(root / name / "ground_truth/ko/0001.png", spot=(1, 1))
    return "btad", dict.fromkeys(("01", "02", "03"), (3, 0, 1, 1, 1))


def kolektor_sdd(root):
    """Eight surfaces an item, each with its mask; one item here has a defect."""
    root = root / "KolektorSDD"
    for item in range(1, 11):
        for part in range(2):
            spot = (2, 2) if (item, part) == (7, 1) else None
            write(root / f"kos{item:02}/Part{part}.jpg", item * 10 + part)
            write(root / f"kos{item:02}/Part{part}_label.bmp", spot=spot)
    return "kolektor sdd", {"KolektorSDD": (15, 0, 4, 1, 1)}


def kolektor_sdd2(root):
    root = root / "KolektorSDD2"
    for split, images, defects in (("train", 6, 2), ("test", 4, 1)):
        for i in range(images):
            number = 10000 + i + (20000 if split == "test" else 0)
            write(root / f"{split}/{number}.png", i)
            write(root / f"{split}/{number}_GT.png", spot=(1, 1) if i < defects else None)
    return "kolektor sdd2", {"KolektorSDD2": (4, 0, 3, 1, 1)}


def real_iad(root):
    """Three views of a part here (five in the published one); views of NG parts may be good."""
    for side in (256, 1024):
        for name in ("audiojack", "pcb"):
            lists = {"meta": {"prefix": f"{name}/", "normal_class": "OK"}, "train": [], "test": []}
            for part in range(1, 6):
                for view in range(1, 4):
                    split = "train" if part <= 3 else "test"
                    ng = part == 5
                    folder = f"NG/BX/S{part:04}" if ng else f"OK/S{part:04}"
                    stem = f"{folder}/{name}_{part:04}_{'NG_BX' if ng else 'OK'}_C{view}_2023"
                    marked = ng and view < 3
                    mask = f"{stem}.png" if marked else None
                    write(root / f"realiad_{side}" / name / f"{stem}.jpg", part * 10 + view)
                    if mask:
                        write(root / f"realiad_{side}" / name / mask, spot=(1, 1))
                    lists[split].append(
                        {
                            "category": name,
                            "anomaly_class": "BX" if marked else "OK",
                            "image_path": f"{stem}.jpg",
                            "mask_path": mask,
                        }
                    )
            for variant in ("realiad_jsons", "realiad_jsons_sv"):
                file = root / "realiad_jsons" / variant / f"{name}.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(lists), encoding="utf-8")
    return "real-iad", dict.fromkeys(("audiojack", "pcb"), (9, 0, 4, 2, 2))


def good_and_ng(root):
    for name in ("bolt", "nut"):
        for i in range(10):
            write(root / name / f"OK/{i}.png", i)
        for i in range(3):
            write(root / name / f"NG/{i}.png", i)
    return "good and defects", dict.fromkeys(("bolt", "nut"), (8, 0, 2, 3, 0))


def manifest(root):
    lines = ["image,label,class,split,mask,group,part"]
    for i in range(6):
        write(root / f"pictures/{i}.png", i)
        lines.append(f"pictures/{i}.png,good,bolt,train,,roll {i // 2},")
    write(root / "pictures/mask.png", spot=(1, 1))
    for i, label in ((6, "good"), (7, "crack")):
        write(root / f"pictures/{i}.png", i)
        lines.append(f"pictures/{i}.png,{label},bolt,test,{'pictures/mask.png' * (i == 7)},,")
    (root / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    return "manifest", {"bolt": (6, 0, 1, 1, 1)}


MADE = [mvtec_ad_2, mvtec_loco, mpdd, btad, kolektor_sdd, kolektor_sdd2, real_iad, good_and_ng]
MADE += [manifest]
