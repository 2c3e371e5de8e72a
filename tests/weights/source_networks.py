"""Builds networks of other packages with random weights, saves them and runs them on images.

python tests/weights/source_networks.py SOURCE SIZE FOLDER

SOURCE is one of the functions below, and SIZE full or narrow. The Python needs PyTorch and the
package of the source, or Keras; it does not need JAX or jaxcovid. FOLDER gets the files as users
have them, and run.npz with `images`, as our network takes them, `features` of the package's network
and, if it has a head of ours, `logits`.
"""

import json
import os
import pathlib
import re
import sys

import numpy as np

NARROW = {"growth_rate": 4, "block_config": (1, 2, 1, 1), "num_init_features": 8}
CFG = {
    "backbone": "densenet121",
    "pixel_mean": 128.0,
    "pixel_std": 64.0,
    "num_classes": [1, 1, 1],
    "norm_type": "BatchNorm",
    "global_pool": "AVG",
    "fc_bn": True,
    "attention_map": "FPA",
}


def images(size, channels, pixels=None):
    """Images of 256 levels from -1 to 1: one of 32 pixels for a narrow network, else two of 64."""
    count, default = (1, 32) if size == "narrow" else (2, 64)
    shape = (count, pixels or default, pixels or default, channels)
    levels = np.random.default_rng(0).integers(0, 256, shape)
    return ((levels - 127.5) / 127.5).astype(np.float32)


def randomise(model):
    """Gives a PyTorch module weights that keep its maps in range, and moments of a training."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point():
                fan_in = tensor[0].numel() if tensor.ndim > 1 else 100
                tensor.normal_(generator=generator).mul_(fan_in**-0.5)
    return model.eval()


def run(model, batch):
    """What a function of PyTorch makes of images [b, h, w, c], channels last again."""
    import torch

    with torch.no_grad():
        result = model(torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())).numpy()
    return result.transpose(0, 2, 3, 1) if result.ndim == 4 else result


def old_names(state):
    """A state dict with the names that torchvision used until 2018."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


def torchvision(size, folder):
    import safetensors.torch
    import torch
    import torchvision

    if size == "narrow":
        model = torchvision.models.DenseNet(**NARROW, num_classes=5)
    else:
        model = torchvision.models.densenet121()
    state = randomise(model).state_dict()
    torch.save(state, folder / "current.pth")
    torch.save(old_names(state), folder / "old.pth", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, folder / "arrays.safetensors")
    np.savez_compressed(folder / "arrays.npz", **{name: t.numpy() for name, t in state.items()})
    batch = images(size, 3)
    return {"images": batch, "features": run(lambda x: model.features(x).relu(), batch)}


def torchvision_169(size, folder):
    import torch
    import torchvision

    model = randomise(torchvision.models.densenet169())
    checkpoint = {"epoch": 3, "state_dict": torch.nn.DataParallel(model).state_dict()}
    torch.save(checkpoint, folder / "parallel.pth.tar")
    batch = images(size, 3)
    return {"images": batch, "features": run(lambda x: model.features(x).relu(), batch)}


def timm(size, folder):
    import safetensors.torch
    import timm
    import torch

    if size == "narrow":
        options = {key: NARROW[key] for key in ("growth_rate", "block_config")}
        model = timm.models.densenet.DenseNet(**options, num_classes=5)
    else:
        model = timm.create_model("densenet121")
    randomise(model)
    torch.save(model, folder / "module.pt")
    (folder / "hub").mkdir()
    safetensors.torch.save_file(model.state_dict(), folder / "hub" / "model.safetensors")
    moments = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    config = {"architecture": "densenet121", "pretrained_cfg": moments}
    (folder / "hub" / "config.json").write_text(json.dumps(config))
    batch = images(size, 3)
    return {"images": batch, "features": run(model.forward_features, batch)}


def torchxrayvision(size, folder):
    import torch
    import torchxrayvision

    options = NARROW if size == "narrow" else {}
    model = randomise(torchxrayvision.models.DenseNet(weights=None, **options))
    model.features.norm0.running_var.mul_(1024**2)  # as of a network trained on its input
    torch.save(model, folder / "module.pt")
    if size == "full":  # as those that are published, with the source code of the classes
        torch.save(model, folder / "published.pt", _use_new_zipfile_serialization=False)
    batch = images(size, 1)
    return {
        "images": batch,
        "features": run(lambda x: model.features(1024 * x).relu(), batch),
        "logits": run(lambda x: model(1024 * x), batch),
    }


def jfhealthcare(size, folder):
    import jfhealthcare_network
    import torch
    from torchvision.models import DenseNet

    backbone = DenseNet(**NARROW, num_classes=5) if size == "narrow" else DenseNet()
    model = randomise(jfhealthcare_network.Classifier(backbone, heads=3))
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "best1.ckpt")
    (folder / "cfg.json").write_text(json.dumps(CFG))
    batch = images(size, 3, pixels=128)  # that code needs a map of a multiple of 4
    return {
        "images": batch,
        "features": run(lambda x: model.backbone.features(x).relu(), batch),
        "logits": run(lambda x: torch.cat(model(x), 1), batch),
    }


def keras(size, folder):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import h5py
    import keras
    from keras.src.applications.densenet import DenseNet

    rng = np.random.default_rng(0)
    blocks = {"narrow": [1, 2, 1, 1], "full": [6, 12, 24, 16], "169": [6, 12, 32, 32]}[size]
    batch = images(size, 3)
    model = DenseNet(
        blocks, include_top=size == "169", weights=None, input_shape=batch.shape[1:], classes=4
    )
    for layer in model.layers:
        values = [
            rng.normal(size=w.shape) / np.sqrt(np.prod(w.shape[:-1]))
            if w.shape[1:]
            else rng.uniform(0.5, 1.5, w.shape)
            for w in layer.weights
        ]
        if layer.name == "bn":  # so small that the epsilon counts
            values[0] *= 0.01
            values[3] *= 1e-6
        layer.set_weights(values)
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    model.save_weights(folder / "model.weights.h5")
    with h5py.File(folder / "published.h5", "w") as file:
        for layer in model.layers:
            old = re.sub(r"^(conv1)_", r"\1/", layer.name)
            for w, value in zip(layer.weights, layer.get_weights(), strict=True):
                file[f"{old}/{old}/{w.name}:0"] = value
    features = keras.Model(model.inputs, model.get_layer("relu").output)
    return {"images": batch, "features": np.asarray(features.predict(batch, verbose=0))}


def main(source, size, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    np.savez_compressed(folder / "run.npz", **globals()[source](size, folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
