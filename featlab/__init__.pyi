from . import (
    arguments as arguments,
)
from . import (
    audit as audit,
)
from . import (
    backbones as backbones,
)
from . import (
    boxes as boxes,
)
from . import (
    boxheads as boxheads,
)
from . import (
    cli as cli,
)
from . import (
    datasets as datasets,
)
from . import (
    embed as embed,
)
from . import (
    extract as extract,
)
from . import (
    features as features,
)
from . import (
    finetune as finetune,
)
from . import (
    gradients as gradients,
)
from . import (
    heads as heads,
)
from . import (
    images as images,
)
from . import (
    intervals as intervals,
)
from . import (
    localise as localise,
)
from . import (
    neurons as neurons,
)
from . import (
    own as own,
)
from . import (
    pipeline as pipeline,
)
from . import (
    plots as plots,
)
from . import (
    predict as predict,
)
from . import (
    report as report,
)
from . import (
    results as results,
)
from . import (
    splits as splits,
)
from . import (
    store as store,
)
from . import (
    system as system,
)
from .errors import FeatlabError as FeatlabError
from .system import __version__ as __version__
