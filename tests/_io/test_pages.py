"""Templates: every value is text, every name has a value."""

import jinja2
import pytest

from varpro_nn._io.pages import fill, read_template


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """Make a package with the one template ``page.html``; its name."""
    name = f"package_of_{request.node.name.split('[')[0]}"
    (tmp_path / name / "templates").mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    def make(template):
        (tmp_path / name / "templates" / "page.html").write_text(template, encoding="utf-8")
        return name

    return make


def test_values_are_text_unless_the_template_says_otherwise(package):
    name = package("{{ value }} {{ value | safe }} {{ value | tojson }}\n")
    filled = fill(name, "page.html", value="<b>{{ value }}")
    assert filled == '&lt;b&gt;{{ value }} <b>{{ value }} "\\u003cb\\u003e{{ value }}"\n'


def test_a_name_without_a_value_is_an_error(package):
    name = package("<p>{{ title }}</p>")
    with pytest.raises(jinja2.UndefinedError, match="'title' is undefined"):
        fill(name, "page.html", tittle="a")


def test_what_is_no_number_of_json_is_an_error(package):
    with pytest.raises(ValueError, match="not JSON compliant"):
        fill(package("{{ value | tojson }}"), "page.html", value=[1.0, float("nan")])


def test_styles_and_scripts_are_read_as_they_are(package):
    text = "a {# no comment #} {{ b }} é\n"
    assert read_template(package(text), "page.html") == text
