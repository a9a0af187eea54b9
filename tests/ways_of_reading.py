"""The ways in which a recipe may read something of its project. Runs as a recipe, and in tests to compare.

Each takes a folder and two paths in it, of which nobody says that they are there, and returns what it saw.
"""

# They are to read in as many ways as there are, not in the best one.
# ruff: noqa: ARG001, PTH100, PTH109, PTH110, PTH112, PTH113, PTH114, PTH115, PTH116, PTH121, PTH123, PTH202, PTH204, PTH207, PTH208, PTH211, SIM115

import configparser
import contextlib
import filecmp
import fileinput
import glob
import hashlib
import importlib
import importlib.resources
import importlib.util
import io
import linecache
import mmap
import os
import pkgutil
import runpy
import shutil
import stat
import sys
import tarfile
import tempfile
import threading
import tokenize
import zipfile
from pathlib import Path

import jinja2


def _read(file):
    with file:
        return file.read()


def by_open(folder, a, b):
    return _read(open(f"{folder}/{a}", "rb"))


def by_path(folder, a, b):
    return Path(folder, a).read_text()


def by_path_with_dots(folder, a, b):
    return _read(open(f"{folder}/d/../{a}"))


def by_io(folder, a, b):
    return _read(io.open_code(os.path.abspath(f"{folder}/{a}")))


def by_os_open(folder, a, b):
    with contextlib.closing(os.fdopen(os.open(f"{folder}/{a}", os.O_RDONLY))) as file:
        return file.read()


def by_folder_descriptor(folder, a, b):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with os.fdopen(os.open(a, os.O_RDONLY, dir_fd=descriptor)) as file:
            return file.read()
    finally:
        os.close(descriptor)


def by_opener(folder, a, b):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return _read(open(a, opener=lambda path, flags: os.open(path, flags, dir_fd=descriptor)))
    finally:
        os.close(descriptor)


def by_memory_map(folder, a, b):
    with open(f"{folder}/{a}", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        return bytes(memory)


def by_proc(folder, a, b):
    return _read(open(f"/proc/self/cwd/{folder}/{a}"))


def by_link_from_outside(folder, a, b):
    with tempfile.TemporaryDirectory() as scratch:
        os.symlink(os.path.abspath(folder), f"{scratch}/link")
        return _read(open(f"{scratch}/link/{a}")), os.path.exists(f"{scratch}/link/{b}")


def by_changed_directory(folder, a, b):
    before = os.getcwd()
    os.chdir(folder)
    try:
        return _read(open(a)), os.path.exists(b)
    finally:
        os.chdir(before)


def by_thread(folder, a, b):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(os.path.exists(f"{folder}/{a}")))
    thread.start()
    thread.join()
    return seen


def by_hash(folder, a, b):
    with open(f"{folder}/{a}", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def by_line_cache(folder, a, b):
    linecache.clearcache()
    return linecache.getlines(f"{folder}/{a}")


def by_tokenize(folder, a, b):
    with tokenize.open(f"{folder}/{a}") as file:
        return file.read()


def by_file_input(folder, a, b):
    with fileinput.input([f"{folder}/{a}", f"{folder}/{b}"]) as lines:
        return list(lines)


def by_configuration_parser(folder, a, b):
    parser = configparser.ConfigParser(allow_no_value=True)
    read = parser.read([f"{folder}/{a}", f"{folder}/{b}"])
    return read, parser.sections()


# --- without opening -----------------------------------------------------------------------------------


def whether_it_exists(folder, a, b):
    return os.path.exists(f"{folder}/{a}"), Path(folder, b).exists()


def whether_it_is_a_file(folder, a, b):
    return os.path.isfile(f"{folder}/{a}"), Path(folder, b).is_file()


def whether_it_is_a_folder(folder, a, b):
    return os.path.isdir(f"{folder}/{a}"), Path(folder, b).is_dir()


def whether_it_is_a_link(folder, a, b):
    return os.path.islink(f"{folder}/{a}"), Path(folder, b).is_symlink()


def whether_something_is_there(folder, a, b):
    return os.path.lexists(f"{folder}/{a}")


def whether_it_may_be_used(folder, a, b):
    return [os.access(f"{folder}/{a}", mode) for mode in (os.F_OK, os.X_OK)]


def by_access_from_a_descriptor(folder, a, b):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return os.access(a, os.F_OK, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def size(folder, a, b):
    return os.path.getsize(f"{folder}/{a}")


def size_by_stat(folder, a, b):
    found = Path(folder, a).stat()
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def size_by_descriptor(folder, a, b):
    with open(f"{folder}/{a}") as file:
        found = os.fstat(file.fileno())
        return found.st_size, found.st_mode, found.st_mtime


def permissions(folder, a, b):
    return stat.filemode(os.stat(f"{folder}/{a}").st_mode)


def permissions_by_index(folder, a, b):
    return os.stat(f"{folder}/{a}")[stat.ST_MODE]


def time_of_change(folder, a, b):
    return os.path.getmtime(f"{folder}/{a}"), Path(folder, b).stat().st_mtime_ns


def what_lies_there_itself(folder, a, b):
    found = os.lstat(f"{folder}/{a}")
    return stat.S_IFMT(found.st_mode), found.st_mtime, found.st_size if stat.S_ISREG(found.st_mode) else None


def link(folder, a, b):
    return os.readlink(f"{folder}/{a}")


def where_it_leads(folder, a, b):
    return os.path.relpath(Path(folder, a).resolve()), os.path.relpath(os.path.realpath(f"{folder}/{b}"))


def whether_both_are_the_same(folder, a, b):
    return os.path.samefile(f"{folder}/{a}", f"{folder}/{b}")


def whether_both_hold_the_same(folder, a, b):
    filecmp.clear_cache()
    return filecmp.cmp(f"{folder}/{a}", f"{folder}/{b}", shallow=False)


def whether_both_look_the_same(folder, a, b):
    filecmp.clear_cache()
    return filecmp.cmp(f"{folder}/{a}", f"{folder}/{b}")


# --- folders -------------------------------------------------------------------------------------------


def names(folder, a, b):
    return sorted(os.listdir(folder)), sorted(os.listdir(f"{folder}/{a}"))


def names_by_path(folder, a, b):
    return sorted(path.name for path in Path(folder, a).iterdir())


def names_by_descriptor(folder, a, b):
    descriptor = os.open(f"{folder}/{a}", os.O_RDONLY)
    try:
        return sorted(os.listdir(descriptor))
    finally:
        os.close(descriptor)


def entries(folder, a, b):
    with os.scandir(folder) as found:
        return sorted((entry.name, entry.is_file(), entry.is_dir(), entry.is_symlink()) for entry in found)


def sizes_of_entries(folder, a, b):
    with os.scandir(folder) as found:
        return sorted((entry.name, entry.stat().st_size) for entry in found if entry.is_file())


def permissions_of_entries(folder, a, b):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with os.scandir(descriptor) as found:
            return sorted((entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in found)
    finally:
        os.close(descriptor)


def by_walk(folder, a, b):
    return sorted((path, sorted(folders), sorted(names)) for path, folders, names in os.walk(folder))


def by_walk_through_links(folder, a, b):
    found = []
    for path, folders, names in os.walk(folder, followlinks=True):
        found.append((path, sorted(folders), sorted(names)))
        if path.count("/") > 4:
            folders.clear()
    return sorted(found)


def by_walk_of_descriptors(folder, a, b):
    found = []
    for path, _, names, descriptor in os.fwalk(folder):
        found += [(path, name, os.stat(name, dir_fd=descriptor).st_size) for name in names]
    return sorted(found)


def by_glob(folder, a, b):
    return sorted(glob.glob(f"{folder}/**/*.txt", recursive=True)), sorted(glob.glob(f"{folder}/*/{b}"))


def by_glob_in_a_root(folder, a, b):
    return sorted(glob.glob(f"*/{Path(b).name}", root_dir=folder))


def by_glob_in_a_descriptor(folder, a, b):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return sorted(glob.glob("**", dir_fd=descriptor, recursive=True))
    finally:
        os.close(descriptor)


def by_path_glob(folder, a, b):
    return sorted(map(str, [*Path(folder).glob("*.txt"), *Path(folder).glob(f"*/{Path(b).name}")]))


def by_path_glob_below(folder, a, b):
    return sorted((str(path), path.is_dir()) for path in Path(folder).rglob("*"))


def contents_by_glob(folder, a, b):
    return [(str(path), path.read_bytes()) for path in sorted(Path(folder).rglob("*")) if path.is_file()]


# --- copies and archives --------------------------------------------------------------------------------


def by_copy(folder, a, b):
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(f"{folder}/{a}", f"{scratch}/copy")
        return Path(scratch, "copy").read_bytes(), os.stat(f"{scratch}/copy").st_mode


def by_copied_folder(folder, a, b):
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(folder, f"{scratch}/copy", symlinks=True)
        found = sorted(Path(scratch).rglob("*"))
        return [(str(path.relative_to(scratch)), path.lstat().st_mode, _content(path)) for path in found]


def _content(path):
    return os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None


def by_tar(folder, a, b):
    with io.BytesIO() as held:
        with tarfile.open(fileobj=held, mode="w") as archive:
            archive.add(folder, filter=_without_owner)
        return held.getvalue()


def _without_owner(member):
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def by_zip(folder, a, b):
    with io.BytesIO() as held:
        with zipfile.ZipFile(held, "w", strict_timestamps=False) as archive:
            archive.write(f"{folder}/{a}")
        return held.getvalue()


# --- modules and templates --------------------------------------------------------------------------------


@contextlib.contextmanager
def _found_in(*folders):
    before, kept = list(sys.path), set(sys.modules)
    sys.path[:0] = [os.path.abspath(folder) for folder in folders]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - kept:
            if name.split(".")[0] in ("m", "d", "e"):
                del sys.modules[name]


def by_import(folder, a, b):
    with _found_in(folder):
        return importlib.import_module("m").X


def by_import_from_two(folder, a, b):
    with _found_in(f"{folder}/d", folder):
        return importlib.import_module("m").X


def by_import_of_a_package(folder, a, b):
    with _found_in(folder):
        return importlib.import_module("d.m").X


def by_looking_for_a_module(folder, a, b):
    with _found_in(folder):
        return [importlib.util.find_spec(name) is not None for name in ("m", "d", "e")]


def by_list_of_modules(folder, a, b):
    return sorted((found.name, found.ispkg) for found in pkgutil.iter_modules([f"{folder}/d", folder]))


def by_resources(folder, a, b):
    with _found_in(folder):
        found = importlib.resources.files("d")
        return sorted(child.name for child in found.iterdir()), found.joinpath("m.py").read_text()


def by_run(folder, a, b):
    return runpy.run_path(f"{folder}/m.py")["X"]


def by_exec(folder, a, b):
    values = {}
    exec(_read(open(f"{folder}/m.py")), values)
    return values["X"]


def by_template(folder, a, b):
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader([f"{folder}/d", folder]), autoescape=True)
    text = f"{{% include ['{a}', '{b}'] ignore missing %}}"
    return environment.from_string(text).render()


WAYS = sorted(
    name
    for name, way in globals().items()
    if getattr(way, "__module__", None) == __name__ and callable(way) and not name.startswith("_")
)
