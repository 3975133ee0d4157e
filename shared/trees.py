"""LightGBM as `lgb`, without its half for scikit-learn, whose import takes as long as all the rest of a start.

Who is killed and comes back reads one model and predicts. LightGBM has no option for that: it takes
scikit-learn wherever it finds it, so it is not to find it.
"""

import sys

if "sklearn" in sys.modules:
    import lightgbm as lgb
else:
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # Python's own word for: not to be found
    try:
        import lightgbm as lgb
    finally:
        del sys.modules["sklearn"]  # who needs it imports it as ever

from lightgbm.libpath import _LIB as LIB  # its C functions; not before it is loaded as above

__all__ = ["LIB", "lgb"]
