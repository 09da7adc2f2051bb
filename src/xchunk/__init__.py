"""Automatic rechunking for xarray."""
from xchunk._version import __version__ as __version__
