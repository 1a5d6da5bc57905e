"""Policy-gradient estimators in pure JAX that prove themselves.

The public names stand on one page, `__init__.pyi`, and each is imported on first use: so
`pgjax --help` needs no JAX, and who does not roll out does not wait three seconds for gymnax.
"""

import lazy_loader

from pgjax._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
