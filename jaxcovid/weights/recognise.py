"""Tells from which network of which source the arrays of a file are."""

from jaxcovid.weights.files.read import WeightFile
from jaxcovid.weights.plan import Plan, named
from jaxcovid.weights.sources import (
    efficientnet_lite,
    jfhealthcare,
    keras,
    timm,
    torchvision,
    torchxrayvision,
)

# Those whose names another one shares come before it.
SOURCES = (jfhealthcare, torchxrayvision, timm, torchvision, keras, efficientnet_lite)


def recognise(file: WeightFile) -> Plan:
    """The plan that has a place for every array of the file, and an array for every place.

    Raises:
      ValueError: there is none; names the nearest network, and what differs.
    """
    plans = [plan for source in SOURCES for plan in source.plans(file.content)]
    nearest = min(plans, key=_distance)
    missing, unknown = nearest.missing(), nearest.unknown()
    if not missing and not unknown:
        return nearest
    used = nearest.used()
    if len(missing) == len(used):
        names = named(sorted(nearest.arrays)) if nearest.arrays else "no arrays"
        raise ValueError(
            f"{file.name} holds {names}, none of a network that is known; "
            f"converted are {', '.join(dict.fromkeys(plan.title for plan in plans))}"
        )
    differences = [f"{named(missing)} missing"] if missing else []
    differences += [f"{named(unknown)} unknown"] if unknown else []
    raise ValueError(
        f"{file.name} is of no network that is known. Nearest is {nearest.title}, with "
        f"{len(used) - len(missing):,} of its {len(used):,} arrays; {', '.join(differences)}"
    )


def _distance(plan: Plan) -> tuple[int, int, int]:
    """How few names a file and a network share; then how many differ; then how many shapes."""
    missing = len(plan.missing())
    shared = len(plan.used()) - missing
    return -shared, missing + len(plan.unknown()), len(plan.mismatched())
