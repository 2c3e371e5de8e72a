"""The data sets that can be prepared: a new one is a file in this folder and two lines here."""

from jaxcovid.data.builders.base import ImageBuilder
from jaxcovid.data.builders.chest_xray_pneumonia import ChestXrayPneumonia
from jaxcovid.data.builders.chestxray14 import Chestxray14
from jaxcovid.data.builders.chexpert import Chexpert
from jaxcovid.data.builders.covid19_ct_seg import Covid19CtSeg
from jaxcovid.data.builders.covid_chestxray import CovidChestxray
from jaxcovid.data.builders.covid_ct import CovidCt
from jaxcovid.data.builders.ct_cov19 import CtCov19
from jaxcovid.data.builders.folder import Folder
from jaxcovid.data.builders.mosmed import Mosmed
from jaxcovid.data.builders.phantom import Phantom
from jaxcovid.data.builders.sars_cov_2_ct import SarsCov2Ct

# By the name that the command line has for it.
BUILDERS: dict[str, type[ImageBuilder | Phantom]] = {
    "covid_ct": CovidCt,
    "ct_cov19": CtCov19,
    "sars_cov_2_ct": SarsCov2Ct,
    "covid19_ct_seg": Covid19CtSeg,
    "mosmed": Mosmed,
    "covid_chestxray": CovidChestxray,
    "chest_xray_pneumonia": ChestXrayPneumonia,
    "chestxray14": Chestxray14,
    "chexpert": Chexpert,
    "folder": Folder,
    "phantom": Phantom,
}
