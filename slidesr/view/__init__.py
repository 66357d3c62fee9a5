"""Shows slides before and after in the browser: served locally, or exported as files."""

from slidesr.view.exhibit import Exhibit, exhibit
from slidesr.view.export import export
from slidesr.view.server import Server

__all__ = ["Exhibit", "Server", "exhibit", "export"]
