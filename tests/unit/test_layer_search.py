"""Looking for files in layers' texts, against folding the layers."""

import fnmatch
import zlib

from hypothesis import example, given
from hypothesis import strategies as st

from baker.layer import encode_layer, make_file
from baker.layer_search import ByContent, ByPath, list_folders, read_facts, see
from baker.manifest import fold_layers
from tests.factories import make_file as make_entry
from tests.factories import make_layer

PATHS = ["/", "/a", "/a/b", "/a/b/c", "/a/b/d", "/ab", "/a/é", "/x"]


@st.composite
def layers(draw):
    """As a capture makes them: folders of what they hold are there too, and nothing lies below a file."""
    kinds = {}
    for path in draw(st.sets(st.sampled_from(PATHS[1:]))):
        above = list_folders(path)
        if all(kinds.get(folder, "d") == "d" for folder in above):
            kinds |= dict.fromkeys(above, "d")
            kinds.setdefault(path, draw(st.sampled_from("fdl")))
    files = [make_entry(path, draw(st.sampled_from("12")), kind=kind) for path, kind in kinds.items()]
    return make_layer(*files, removed=sorted(draw(st.sets(st.sampled_from(PATHS)))))


def look(looked, stack):
    """As the catalog does; the stack's lowest layer first."""
    texts = [zlib.decompress(encode_layer(layer)) for layer in stack]
    paths = {path for text in texts for path in looked.find_paths(text)}
    around = paths | {folder for path in paths for folder in list_folders(path)}
    seen = see([read_facts(text, paths, around) for text in reversed(texts)])
    return sorted((make_file(row) for row in seen if looked.is_met(row)), key=lambda file: file.path)


@given(st.lists(layers(), max_size=4), st.sampled_from(PATHS))
def test_path_is_found_as_the_folded_layers_show_it(stack, path):
    assert look(ByPath(path), stack) == [file for file in fold_layers(stack) if file.path == path]


@given(st.lists(layers(), max_size=4), st.sampled_from(["/a/*", "*", "/?", "/[ax]", "*b*", "/a/é*"]))
def test_paths_of_a_glob_are_found_as_the_folded_layers_show_them(stack, glob):
    expected = [file for file in fold_layers(stack) if fnmatch.fnmatchcase(file.path, glob)]
    assert look(ByPath(glob), stack) == expected


@given(st.lists(layers(), max_size=4))
@example([make_layer(make_entry("/x", "1")), make_layer(make_entry("/x", "2"))])
def test_content_is_found_where_it_is_still_seen(stack):
    digest = make_entry("/x", "1").digest
    expected = [file for file in fold_layers(stack) if file.digest == digest]
    assert look(ByContent(digest[:12]), stack) == expected


def test_layer_that_says_nothing_of_a_path_is_not_even_read():
    assert read_facts(b"no JSON", {"/a/b"}, {"/a/b", "/a", "/"}).holds == {}
    assert ByPath("/a/b").find_paths(b"no JSON") == set()
    assert ByContent("0123456789ab").find_paths(b"no JSON") == set()


def test_folders_of_a_path_begin_at_the_root():
    assert list_folders("/a/b/c") == ["/", "/a", "/a/b"]
    assert list_folders("/") == []
