"""A project of a thousand recipes in a graph, and the catalog that nights of baking them all leave.

Ten roots; every recipe has three children until there are enough: the longest line is of five recipes. Each
reads five of 200 shared templates. Nothing is booted: builds are registered and distributed by the catalog's
and the store's own calls, with the inputs that a bake would have found and layers that are empty files.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from baker.catalog import Catalog
from baker.fingerprint import fingerprint, image_test_inputs, traced_inputs
from baker.knowledge import ProjectKnowledge, tool_versions
from baker.layer import Layer, encode_layer
from baker.model import Artifact, Build, Provenance, Recipe, Reference
from baker.providers.local.provider import LocalProvider
from baker.recipes import load_recipes
from baker.settings import load_settings
from baker.teardown import Teardown
from tests.factories import make_file, make_package

RECIPES, ROOTS, CHILDREN = 1000, 10, 3
TEMPLATES, READ = 200, 5
VERSIONS = 5
PACKAGES = 40
DEPLOY = """from pyinfra.operations import apt, files

apt.packages(name="Install {package}", packages=["{package}"], update=True)
for name in ({names}):
    files.template(name=f"Write {{name}}", src=f"templates/{{name}}.conf.j2", dest=f"/etc/{{name}}.conf")
files.put(name="Write settings", src=f"recipes/{recipe}/files/settings.ini", dest="/etc/settings.ini")
"""
TOML = """description = "Number {number} of the graph"
from = "{source}"
environment = ["STAGE"]

[data]
port = {port}
workers = 4
names = ["{recipe}.example", "www.{recipe}.example"]

[targets.local]
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """What apt knew in a root, and in a recipe upon it that installs a package; of real bakes."""

    root: bytes
    child: bytes

    @classmethod
    def of_night(cls, home: Path) -> States:
        """From the catalog that baking ``make_nightly_project`` leaves."""
        with Catalog.open(f"sqlite:///{home}/catalog.db", actor="bench", read_only=True) as catalog:
            builds = [catalog.resolve(Reference(recipe=recipe)).builds[0] for recipe in ("base", "app-1")]
            root, child = (catalog.package_state(build.id) for build in builds)
        assert root is not None
        assert child is not None
        return cls(root=root, child=child)


def make_project(folder: Path) -> None:
    """Write it, and commit it to a git repository of its own."""
    chance = random.Random(1)
    templates = folder / "templates"
    templates.mkdir(parents=True)
    (folder / "baker.toml").write_text("# A project to be planned.\n")
    for number in range(TEMPLATES):
        (templates / f"{name_template(number)}.conf.j2").write_text("setting = {{ host.data.port }}\n" * 40)
    for number in range(RECIPES):
        recipe = name_recipe(number)
        own = folder / "recipes" / recipe
        (own / "files").mkdir(parents=True)
        source = "debian:trixie" if number < ROOTS else name_recipe((number - ROOTS) // CHILDREN)
        read = ", ".join(f'"{name_template(one)}"' for one in chance.sample(range(TEMPLATES), READ))
        (own / "recipe.toml").write_text(
            TOML.format(number=number, source=source, port=8000 + number, recipe=recipe)
        )
        (own / "deploy.py").write_text(DEPLOY.format(package="tree", names=read, recipe=recipe))
        (own / "files" / "settings.ini").write_text(f"[main]\nname = {recipe}\n")
        (own / "test_image.py").write_text(
            "def test_settings(host):\n    assert host.file('/etc/settings.ini').exists\n"
        )
    identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for arguments in (("init", "--quiet"), ("add", "."), (*identity, "commit", "--quiet", "-m", "All of it")):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)


NIGHTLY_PACKAGES = ("nginx-light", "tree", "jq")
NIGHTLY_ROOT = """from pyinfra.operations import files

files.put(name="Write settings", src="templates/base.conf", dest="/etc/base.conf")
"""
NIGHTLY_PACKAGE = """from pyinfra.operations import apt

apt.packages(name="Install {package}", packages=["{package}"], update=True)
"""
NIGHTLY_FILE = """from pyinfra.operations import files

files.template(name="Write settings", src="templates/app.conf.j2", dest="/etc/app.conf", number={number})
"""


def make_nightly_project(folder: Path) -> None:
    """A root and nine recipes upon it with one operation each: three install a package, six write a file."""
    (folder / "templates").mkdir(parents=True)
    (folder / "baker.toml").write_text("# Ten recipes to be baked at night.\n")
    (folder / "templates" / "base.conf").write_text("base\n")
    (folder / "templates" / "app.conf.j2").write_text("number {{ number }}\n")
    write_recipe(folder, "base", "debian:trixie", NIGHTLY_ROOT)
    for number in range(1, 10):
        packages = NIGHTLY_PACKAGES[number - 1 : number]
        text = NIGHTLY_PACKAGE.format(package=packages[0]) if packages else NIGHTLY_FILE.format(number=number)
        write_recipe(folder, f"app-{number}", "base", text)


def write_recipe(project: Path, name: str, source: str, deploy: str) -> None:
    folder = project / "recipes" / name
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(f'from = "{source}"\n')
    (folder / "deploy.py").write_text(deploy)


def name_recipe(number: int) -> str:
    return f"root-{number:03d}" if number < ROOTS else f"app-{number:03d}"


def name_template(number: int) -> str:
    return f"part-{number:03d}"


def list_read(recipe: Recipe) -> list[tuple[str, str]]:
    """What a bake of it would have traced."""
    deploy = Path(recipe.folder, "deploy.py").read_text()
    names = deploy.partition("for name in (")[2].partition(")")[0].replace('"', "").split(", ")
    looked_for = [("absent", "config.py"), ("absent", "group_data")]
    return [*looked_for, *(("file", f"templates/{name}.conf.j2") for name in names)]


def fill_catalog(
    project: Path, home: Path, versions: int, environ: Mapping[str, str], states: States
) -> None:
    """So many versions of each recipe; what the newest ones depend on is what there is now."""
    settings = load_settings(project, environ, home=home)
    provider = LocalProvider(home, project=project)
    provider.store.create()
    recipes = load_recipes(project)
    with Catalog.open(settings.catalog_url, actor="bench") as catalog:
        knowledge = ProjectKnowledge(
            catalog=catalog, providers={"local": provider}, settings=settings, environ=environ
        )
        for version in range(versions):
            made: dict[str, tuple[Build, list[Layer]]] = {}
            for number in range(RECIPES):
                recipe = recipes[name_recipe(number)]
                source = recipe.targets["local"].source
                parent, below = made[source.recipe] if isinstance(source, Reference) else (None, [])
                layers = [*below, write_layer(provider, f"{recipe.name} {version}")]
                build = make_build(recipe, knowledge, provider, parent, layers, age=versions - 1 - version)
                made[recipe.name] = build, layers
                state = states.child if isinstance(source, Reference) else states.root
                register(catalog, provider, build, layers, state)


def write_layer(provider: LocalProvider, content: str) -> Layer:
    digest = hashlib.sha256(content.encode()).hexdigest()
    files = tuple(make_file(f"/etc/file-{number}.conf", f"{content} {number}") for number in range(20))
    layer = Layer(digest=f"sha256:{digest}", removed=(), files=files)
    (provider.store.layers / f"{digest}.erofs").touch()
    (provider.store.layers / f"{digest}.files").write_bytes(encode_layer(layer))
    return layer


def make_build(
    recipe: Recipe,
    knowledge: ProjectKnowledge,
    provider: LocalProvider,
    parent: Build | None,
    layers: list[Layer],
    *,
    age: int,
) -> Build:
    """As if it had been baked ``age`` nights ago, from another deploy.py unless that is today."""
    bake_id = f"01B{age:03d}{recipe.targets['local'].data['port']:020d}"
    resolved = knowledge.resolve(recipe, "local", provider.arch, parent)
    inputs = {
        **knowledge.static_inputs(recipe, "local", provider.arch, resolved),
        **traced_inputs(recipe, list_read(recipe)),
    }
    if age:
        inputs["recipe:deploy.py"] = f"sha256:{hashlib.sha256(bytes([age])).hexdigest()}"
    artifact = Artifact(
        id=provider.store.write_artifact(
            [layer.digest for layer in layers], {"bake": bake_id, "bootstrap": "debian:trixie"}
        ),
        target="local",
        arch=provider.arch,
        kind="layers",
        store=provider.store_name,
        size_bytes=10**8,
    )
    finished = datetime.now(UTC) - timedelta(days=age)
    provenance = Provenance(
        source=str(recipe.targets["local"].source),
        source_digest=resolved.digest,
        inputs=inputs,
        commit=None,
        dirty=None,
        actor="bench",
        host="builder-1",
        started=finished - timedelta(seconds=40),
        finished=finished,
        tools={"baker": "1", **tool_versions()},
        parent_build=parent.id if parent else None,
    )
    return Build(
        id=bake_id,
        recipe=recipe.name,
        target="local",
        arch=provider.arch,
        fingerprint=fingerprint(inputs),
        digest=f"sha256:{hashlib.sha256(bake_id.encode()).hexdigest()}",
        size_bytes=10**8,
        provenance=provenance,
        artifacts=(artifact,),
        created=finished,
        image_tests=image_test_inputs(recipe),
    )


def register(
    catalog: Catalog, provider: LocalProvider, build: Build, layers: list[Layer], state: bytes
) -> None:
    image = catalog.register(
        recipe=build.recipe,
        build=build,
        layers=layers,
        packages=[make_package(f"package-{number}") for number in range(PACKAGES)],
        carry=(),
        wanted=[("local", provider.arch)],
        package_state=state,
    )
    labels = {"recipe": build.recipe, "version": str(image.version), "bake": build.id}
    artifacts = provider.distribute(build, labels, Teardown(build.id, None))
    catalog.make_available(build.recipe, image.version, {build.id: artifacts})


def edit_template(project: Path) -> None:
    """The one that comes first: a fortieth of the recipes read it."""
    path = project / "templates" / f"{name_template(0)}.conf.j2"
    path.write_text(path.read_text() + "# edited\n")
