"""Options of XLA under which the programs of this package run fastest."""


def compiler_options(platform: str) -> dict[str, str]:
    """Options for the devices of a platform: `cpu`, `gpu` or `tpu`.

    On a CPU XLA hands operations to the YNNPACK library; its products and reductions are faster
    than XLA's own, its 3x3 convolutions half as fast. On a GPU the scheduler that runs all-reduces
    beside kernels is on in any case; for a TPU see `launch/tpu_pod.sh`.
    """
    if platform != "cpu":
        return {}
    fusions = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    return {"xla_cpu_experimental_ynn_fusion_type": fusions}
