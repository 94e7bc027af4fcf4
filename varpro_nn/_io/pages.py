"""HTML pages made from the templates of a package, and written whole.

In a template every value is text, unless the template marks it as ``safe``; a name that has no
value is an error.
"""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varpro_nn._io.atomic import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment


def fill(package: str, name: str, **values: Any) -> str:
    """Fill in the template ``templates/name`` of a package."""
    return _environment(package).get_template(name).render(values)


def read_template(package: str, name: str) -> str:
    """Return ``templates/name`` of a package as it is: a style or a script."""
    return (resources.files(package) / "templates" / name).read_text(encoding="utf-8")


def write_page(path: str | Path, page: str) -> None:
    """Write a page atomically.

    Raises
    ------
    OSError
        The file cannot be written; an older one stays.
    """
    # Half a surrogate pair in a name has no bytes in UTF-8.
    write_atomically(Path(path), page.encode("utf-8", "xmlcharrefreplace"))


@cache
def _environment(package: str) -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # not at the top: slow to load

    environment = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return environment
