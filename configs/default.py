"""Every option of a run, its unit and allowed values; experiments are short deltas over this.

An option is overridden on the command line as `--config.batch_size=32` or
`--config.model.attention=none`, after `--config=FILE`.
"""

from collections.abc import Sequence

import ml_collections


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The paper's recipe; where the paper is silent, docs/paper_choices.md.

    Args:
      variant: empty, or `debug` for a narrow network and a few small steps that run in seconds.
    """
    config = ml_collections.ConfigDict()
    config.seed = 0  # of initialisation, shuffling and augmentation
    # A prepared data set, NAME or NAME/CONFIG, or several joined by "+"
    config.dataset = "covid_ct"
    config.network = "deep_ct_net"  # deep_ct_net | deep_cxr_net | anomaly_net | volume_net
    # screening | segmentation (of lungs and lesion, by a decoder) | joint (both) |
    # distillation (of other networks' features) | contrastive (two views); both without labels
    config.objective = "screening"
    # binary (one sigmoid) | one_vs_rest (three sigmoids) | multiclass (softmax over two classes) |
    # multilabel (a sigmoid for each finding)
    config.task = "binary"
    config.positive_class = "COVID-19"  # the class that the screening looks for
    config.findings = ()  # task=multilabel: the outputs
    config.uncertain = ml_collections.ConfigDict()  # findings of which uncertain counts as ...
    config.uncertain.ones = ()  # ... present
    config.uncertain.ignore = ()  # ... unknown, left out of the loss; of all others: absent

    # none | border_only | centre_only | thumbnail | shuffled_labels: what should not suffice
    config.ablation = "none"

    config.batch_size = 16  # images of a global batch, spread over all devices
    config.epochs = 30.0  # passes over the training split
    config.class_weights = "none"  # none | balanced (positive and negative images weigh the same)
    config.batch_norm = "global"  # synchronised: global | groups:N (of devices) | per_device
    config.early_stop_validations = 0  # stop when the best score is so many of them old; 0 never
    config.validations_per_epoch = 1.0
    config.save_every_steps = 50  # beside a checkpoint before each validation
    config.log_every_steps = 10
    # host | device (spares the host's cores, which only decode)
    config.preprocess_on = "host"
    # Where images of the training and validation split are kept once they are decoded:
    # none | memory (of each process) | disk (beside the records, for later runs too)
    config.cache = "none"
    # Processes that prepare images; 0 uses two threads of the trainer. More than two of them serve
    # the validation too if it has 2,000 images or more: they start anew each time.
    config.workers = 0
    # Of training records that cannot be read: stop | skip (the next one takes its place)
    config.bad_records = "stop"
    # Devices that hold one copy of the parameters and moments between them; 1: each holds all.
    config.fsdp = 1
    # Slices of a TPU job, hosts of a GPU cluster: groups of devices that a slower network joins;
    # 0: as many as the devices say.
    config.slices = 0
    config.profile = (0, 0)  # first and last step that are traced for TensorBoard; (0, 0) none

    _add_network(config)
    _add_images(config)
    apply_variants(config, chosen(variant, ("debug",)))
    return config


def _add_network(config: ml_collections.ConfigDict) -> None:
    """The optimizer, the network, and what it begins with and learns from."""
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 1e-5  # Adam's (paper, section 4.2); peak of one_cycle
    config.optimizer.schedule = "constant"  # constant | one_cycle
    config.optimizer.head_lr_multiplier = 1.0  # of the learning rate, for head and decoder
    config.optimizer.weight_decay = 0.0  # decoupled, per update, on kernels only
    # Batches whose gradients make one update, at most the steps of the training; the last update is
    # made of those that are left.
    config.optimizer.accumulate_steps = 1

    config.model = ml_collections.ConfigDict()
    # densenet121 | densenet169 | efficientnet_lite0 | resnet50 | vgg16 | light_cnn
    config.model.backbone = "densenet121"
    config.model.attention = "compact"  # compact (one-channel pyramid) | wide | none
    config.model.head = "flatten"  # flatten (the paper) | gap (any input size)
    # Of densenet121 alone, to make it narrow; as they are it is DenseNet-121.
    config.model.growth_rate = 32  # channels that a dense layer adds
    config.model.depths = (6, 12, 24, 16)  # layers of each dense block
    config.model.dtype = "float32"  # float32 | bfloat16 (activations; parameters stay float32)
    config.model.form = "fused"  # how the backbone is computed: fused | plain (slower; the same)

    config.init = ml_collections.ConfigDict()  # weights to begin with, of the same backbone
    config.init.weights = ""  # a folder of jaxcovid.convert, or a workdir; empty: random ones
    # What is taken: backbone | attention (with the backbone) | everything, of which the fully
    # connected layers only where they and the names of the outputs are the same
    config.init.what = "backbone"
    config.init.freeze_epochs = 0.0  # epochs in which what was taken stays, except the head
    # Factor of the learning rate from each layer to the one before it, from the head to the stem
    config.init.layer_decay = 1.0

    config.parts = ml_collections.ConfigDict()  # deep_cxr_net: its frozen parts
    for part in ("part1", "part2"):  # the network for findings, and that for pneumonia
        config.parts[part] = ml_collections.ConfigDict()
        config.parts[part].workdir = ""  # of its training; empty: without it
        config.parts[part].outputs = ()  # its outputs, in order
    config.fusion = ml_collections.ConfigDict()  # deep_cxr_net: how the parts are joined
    config.fusion.part3 = True  # False: nothing but the likelihoods of the frozen parts
    config.fusion.reduced = 128  # features left of part 3's; 0 keeps all (the paper's flatten)
    config.fusion.width = 64  # of the layer after the join

    config.segmentation = ml_collections.ConfigDict()
    config.segmentation.weight = 1.0  # joint: of the loss of the masks beside that of the classes


def _add_images(config: ml_collections.ConfigDict) -> None:
    """What happens to images, which are trained on, and what is learned without labels."""
    config.preprocessing = ml_collections.ConfigDict()
    config.preprocessing.size = 256  # pixels a side of the network's input
    config.preprocessing.rotation_deg = 15.0  # training: uniform in [-15, 15] degrees
    config.preprocessing.translation_fraction = 0.05  # training: uniform in +-5 % of each side
    config.preprocessing.fill = 128  # gray value of pixels from outside the image, 0 to 255
    config.preprocessing.keep_ratio = False  # True: keep the aspect ratio and pad with `fill`
    config.preprocessing.equalize = True  # False: without step 2, histogram equalisation
    config.preprocessing.blur = True  # False: without step 4
    # Fixed constants in gray values 0 to 255; empty: each image's own mean and deviation.
    config.preprocessing.mean = ml_collections.config_dict.placeholder(float)
    config.preprocessing.std = ml_collections.config_dict.placeholder(float)

    config.augmentation = ml_collections.ConfigDict()  # training: what else changes at random
    config.augmentation.scale = (1.0, 1.0)  # smallest and largest factor of the size
    config.augmentation.stretch = 1.0  # largest factor between the scales in x and y
    config.augmentation.flip = 0.0  # probability that left and right change places
    config.augmentation.window = 0.0  # largest change of its centre and width, as a share
    config.augmentation.gamma = 1.0  # largest exponent of the gray values
    config.augmentation.noise = 0.0  # largest deviation, gray values of 255 at the network's size
    config.augmentation.blur_px = 0.0  # largest deviation, pixels of the network's input
    config.augmentation.jpeg_quality = 100  # lowest; 100 saves no JPEG
    config.augmentation.border = 0.0  # largest share of each side that is filled

    config.mixture = ml_collections.ConfigDict()  # of the sources of a dataset "A+B"
    # Share of each source in a batch, in the order of their names; (): by their numbers of images
    config.mixture.weights = ()
    # none | classes (of each source as many images with the positive class as without)
    config.mixture.balance = "none"
    config.mixture.unlabelled = ()  # objective=joint: sources of which only masks are learned
    # Copies of what another source holds out are not trained on: near (looks at all images, once
    # for these data) | exact (files of equal bytes)
    config.mixture.copies = "near"

    config.volume = ml_collections.ConfigDict()
    config.volume.slices = 0  # network=volume_net: of each volume, evenly spaced; 0: single images

    config.lungs = ml_collections.ConfigDict()  # what is shown of an image, before the five steps
    config.lungs.workdir = ""  # of a network that segments and marks them; empty: the whole image
    # crop (to the lungs) | mask (what is outside, with preprocessing.fill) | crop_and_mask
    config.lungs.use = "crop"

    config.distillation = ml_collections.ConfigDict()
    config.distillation.teachers = ()  # folders of jaxcovid.convert, or workdirs, of any backbone
    config.contrastive = ml_collections.ConfigDict()
    config.contrastive.width = 1024  # features of the embedding that is compared


def chosen(variant: str, known: Sequence[str]) -> list[str]:
    """The names in a comma-separated list of variants.

    Raises:
      ValueError: one is not among those known.
    """
    names = [name for name in variant.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown variant {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def apply_variants(config: ml_collections.ConfigDict, chosen: Sequence[str]) -> None:
    """The variants that several experiments share: `scratch`, then `debug`."""
    if "scratch" in chosen:
        make_scratch(config)
    if "debug" in chosen:
        make_debug(config)


def make_scratch(config: ml_collections.ConfigDict) -> None:
    """The recipe that did best on validation from random initialisation (COVID-CT)."""
    config.batch_size = 8
    config.epochs = 20.0
    config.preprocessing.fill = 0
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "one_cycle"


def augment(config: ml_collections.ConfigDict) -> None:
    """Random changes that imitate other scanners, windows and file formats."""
    config.augmentation.scale = (0.75, 1.35)
    config.augmentation.stretch = 1.2
    config.augmentation.window = 0.3
    config.augmentation.gamma = 1.5
    config.augmentation.noise = 5.0
    config.augmentation.blur_px = 1.0
    config.augmentation.jpeg_quality = 30
    config.augmentation.border = 0.08


def make_debug(config: ml_collections.ConfigDict) -> None:
    """Turns a configuration into one that runs in seconds and still goes through everything."""
    config.batch_size = 8
    config.epochs = 0.2
    config.validations_per_epoch = 10.0
    config.save_every_steps = 4
    config.log_every_steps = 1
    config.init.freeze_epochs = min(config.init.freeze_epochs, config.epochs / 2)
    config.model.growth_rate = 8
    config.model.depths = (2, 2, 2, 2)
    config.contrastive.width = 64
    config.preprocessing.size = 64
