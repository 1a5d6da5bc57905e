"""Beyond the factoring: gradients that are no weights × term, or that come in another way.

docs/beyond.md says of each what it is in those terms, or why it lies outside. Names stand in
`__init__.pyi` and are imported on first use: what needs no environment does not wait for gymnax.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
