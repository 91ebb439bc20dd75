"""Files that exist complete or not at all, whatever text they hold."""

import json
from pathlib import Path

from trainable.durable import read_json, readable, write_json, write_text


def test_text_with_a_name_that_is_no_utf_8_is_written_readably(tmp_path: Path) -> None:
    assert readable("r\udce9c \ud800 é") == "r\N{REPLACEMENT CHARACTER}c \N{REPLACEMENT CHARACTER} é"
    write_text(tmp_path / "r\udce9c.html", "r\udce9c é")
    assert (tmp_path / "r\udce9c.html").read_text(encoding="utf-8") == "r\N{REPLACEMENT CHARACTER}c é"


def test_json_keeps_such_a_name_as_it_is(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"data_root": "r\udce9c"})
    assert read_json(tmp_path / "manifest.json", what="a manifest") == {"data_root": "r\udce9c"}
    assert json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8")) == {"data_root": "r\udce9c"}
