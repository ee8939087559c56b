"""Images of a user's own: what folders, zips and arrays become, and the tasks that are drawn from them."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from maml_core.cli import main
from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.evaluation.curves import evaluate
from maml_core.learning import own_images
from maml_core.learning.adaptation import landscape
from maml_core.learning.convolution import Conv
from maml_core.learning.fresh_tasks import Tasks, draw_task, draw_tasks
from maml_core.learning.image_files import read_folder, read_images, read_named
from maml_core.learning.image_tables import IMAGE, signs, table_of_images
from maml_core.learning.images import JUDGED
from maml_core.learning.new_images import read_images_task
from maml_core.learning.own_images import OwnImages, hashed, training_samples
from maml_core.learning.table import IMAGE_SIDE, Table, forget, keep
from maml_core.learning.tasks import TaskBatch, TaskSet, TaskStream, seeded
from maml_core.presets import config_for_images
from maml_core.store.exchange import export_run
from maml_core.store.imports import import_run
from maml_core.store.store import Store
from tests.core.test_cli import answer
from tests.trained import trained

PLAIN = OwnImages(size=IMAGE_SIDE)
"""Of the example, in all its pixels."""

SMALL = {"meta_iterations": 3, "meta_batch_size": 2, "model.channels": 2, "model.blocks": 2, "inner_steps": 1}
SETS = list(TaskSet)


def noise(classes: int = 12, images: int = 8, seed: int = 0) -> Table:
    """Classes of random pixels, of which no two images are alike."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (classes * images, IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8)
    names = [f"class {number // images:02d}" for number in range(classes * images)]
    return keep(table_of_images("noise", names, pixels))


def folder_of(place: Path, classes: int = 6, images: int = 3, size: tuple[int, int] = (40, 40)) -> Path:
    """A folder for each class, of images in colors, each other than all others."""
    random = np.random.default_rng(1)
    for number in range(classes):
        folder = place / f"kind {number}"
        folder.mkdir(parents=True)
        for i in range(images):
            colors = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(colors).save(folder / f"{i}.png")
    return place


def zip_of(folder: Path, top: str = "") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in folder.rglob("*"):
            if path.is_file():
                archive.write(path, f"{top}{path.relative_to(folder)}")
    return file.getvalue()


def npz_of(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=True, **arrays)
    return file.getvalue()


def numbers_of(images: Tensor, family: OwnImages) -> Tensor:
    """Which of the family's images these are, `[..., points, pixels]`; all must be of them, as they are."""
    known = {bytes(image.flatten().tolist()): number for number, image in enumerate(family.images.pixels)}
    shades = (255 * images).round().byte().reshape(-1, family.input_size)
    return torch.tensor([known[bytes(image.tolist())] for image in shades]).reshape(images.shape[:-1])


# Files ----------------------------------------------------------------------------------------------------------


def test_a_folder_its_zip_and_its_files_one_by_one_are_the_same_table(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "things")
    table, said = read_folder(folder)
    assert (table.name, table.rows, said) == ("things", 18, "")
    assert sorted(set(table.labels("class"))) == [f"kind {number}" for number in range(6)]
    for top in ("", "things/", "a/b/"):
        assert read_images(zip_of(folder, top), "things.zip").table.id == table.id
    files = [(f"things/{path.relative_to(folder)}", path.read_bytes()) for path in folder.rglob("*.png")]
    again = read_named(files[::-1]).table
    assert (again.id, again.name) == (table.id, "things")


def test_folders_within_folders_are_classes_of_their_own(tmp_path: Path) -> None:
    for alphabet in ("greek", "latin"):
        folder_of(tmp_path / alphabet, classes=3)
    for file in (tmp_path / "latin").rglob("*.png"):
        Image.open(file).rotate(90).save(file)
    names = set(read_folder(tmp_path).table.labels("class"))
    assert names == {f"{alphabet}/kind {number}" for alphabet in ("greek", "latin") for number in range(3)}


def test_the_sets_of_a_whole_data_set_are_one(tmp_path: Path) -> None:
    whole = folder_of(tmp_path / "whole" / "train", classes=6, images=4)
    plain = read_folder(whole).table
    for number in range(6):
        (tmp_path / "whole" / "test" / f"kind {number}").mkdir(parents=True)
        (whole / f"kind {number}" / "3.png").rename(tmp_path / "whole" / "test" / f"kind {number}" / "3.png")
    split_up = read_folder(tmp_path / "whole").table
    assert set(split_up.labels("class")) == {f"kind {number}" for number in range(6)}
    assert sorted(map(bytes, split_up.images(IMAGE).reshape(24, -1))) == sorted(
        map(bytes, plain.images(IMAGE).reshape(24, -1))
    )


def test_long_names_are_told_apart(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "things")
    for number in range(6):
        (folder / f"kind {number}").rename(folder / f"{number}{'x' * 200}")
    assert len(set(read_folder(folder).table.labels("class"))) == 6


def test_shades_of_more_than_8_bits_and_of_all_arrays_are_on_one_scale(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    plain = folder_of(tmp_path / "things")
    for number, (top, kind) in enumerate(((1.0, np.float32), (255, np.int32), (4095, np.uint16), (65535, np.uint16))):
        shades = random.random((40, 40)) * top
        shades[0, :2] = 0, top
        Image.fromarray(shades.astype(kind)).save(plain / f"kind {number}" / "more.tif")
    for pixels in read_folder(plain).table.images(IMAGE):
        assert 100 < pixels.mean() < 155
    deep = {f"kind {number}": random.integers(0, 200 if number % 2 else 4000, (3, 8, 8)) for number in range(8)}
    table = read_images(npz_of(**{name: array.astype(np.uint16) for name, array in deep.items()}), "a.npz").table
    means = {
        name: np.mean([p.mean() for p, n in zip(table.images(IMAGE), table.labels("class"), strict=True) if n == name])
        for name in deep
    }
    assert max(means[f"kind {n}"] for n in (1, 3, 5, 7)) < 20 < 100 < min(means[f"kind {n}"] for n in (0, 2, 4, 6))


def test_the_order_of_names_in_a_file_changes_nothing() -> None:
    table = noise()
    again = Table.from_parquet("again", table.columns, table.to_parquet())
    mixed = Table(
        "mixed",
        table.columns,
        table.frame.assign(
            **{"class": table.frame["class"].cat.reorder_categories(table.frame["class"].cat.categories[::-1])}
        ),
    )
    assert table.id == again.id == mixed.id
    streams = []
    for each in (table, again, mixed):
        own_images._images.cache_clear()
        forget(table.id)
        keep(each)
        family = OwnImages(table=each.id, images_per_class=4, classes=2)
        streams.append(family.sample_batch((3,), 1, 1, seeded("a")).support_x)
    assert torch.equal(streams[0], streams[1])
    assert torch.equal(streams[0], streams[2])


def test_the_random_numbers_of_a_task_have_nothing_to_do_with_each_other() -> None:
    draw = torch.rand(100_000, generator=seeded("h"), dtype=torch.float64)
    u = hashed(draw, 3, start=1_000_000)
    cells = (6 * u).long() @ torch.tensor([36, 6, 1])
    counts = torch.bincount(cells, minlength=216).double()
    expected = len(draw) / 216
    assert float(((counts - expected) ** 2 / expected).sum()) < 216 + 5 * (2 * 216) ** 0.5  # chi squared
    near = hashed(torch.linspace(0.5, 0.5 + 1e-12, 2000, dtype=torch.float64), 2)
    assert abs(float(torch.corrcoef(torch.stack([near[:-1, 0], near[1:, 0]]))[0, 1])) < 0.1
    assert 0 <= float(u.min()) < float(u.max()) < 1


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "things")
    (folder / "notes.txt").write_text("x")
    (folder / "loose.png").write_bytes((folder / "kind 0" / "0.png").read_bytes())
    (folder / "kind 0" / "copy.png").write_bytes((folder / "kind 0" / "0.png").read_bytes())
    (folder / "kind 1" / "other.png").write_bytes((folder / "kind 2" / "1.png").read_bytes())
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "0.png").write_bytes((folder / "kind 0" / "0.png").read_bytes())
    (folder / "__MACOSX" / "kind 0").mkdir(parents=True)
    (folder / "__MACOSX" / "kind 0" / "._0.png").write_bytes(b"\0")
    table, said = read_folder(folder)
    assert said == (
        "Left out: files that are no images (1), images that are hidden (1), images in no folder of a class (1), "
        "images that stand in two classes (2), images that stand twice in a class (1)."
    )
    assert table.rows == 17  # of 18, without the one that stands in two classes


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_images_of_every_kind_are_read(tmp_path: Path, mode: str) -> None:
    folder = folder_of(tmp_path / "things")
    gray = Image.new("L", (40, 20), 255)
    gray.paste(0, (10, 0, 20, 20))
    image = Image.fromarray(np.asarray(gray, dtype=np.uint16) * 257) if mode == "I;16" else gray.convert(mode)
    image.save(folder / "kind 0" / f"bar.{'tif' if mode == 'CMYK' else 'png'}")
    table = read_folder(folder).table
    bars = [pixels for pixels in table.images(IMAGE) if pixels.std() > 1 and (pixels[:7] == pixels[0]).all()]
    assert len(bars) == 1  # wide as it is, with paper above and below
    bar = bars[0].astype(int)
    across = abs(bar[16] - bar[0, 0])
    assert across[9:15].min() > 200
    assert across[:7].max() < 50
    assert abs(bar[2] - bar[0, 0]).max() < 90


def test_the_ground_is_paper_whether_it_was_bright_or_dark() -> None:
    random = np.random.default_rng(0)
    images = np.zeros((60, IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8)
    images[:, 8:24, 8:24] = random.integers(128, 256, (60, 16, 16), dtype=np.uint8)
    labels = np.arange(60) // 10
    dark = read_images(npz_of(images=images, labels=labels), "a.npz").table
    bright = read_images(npz_of(images=255 - images, labels=labels), "a.npz").table
    assert np.array_equal(dark.images(IMAGE), bright.images(IMAGE))
    assert (dark.images(IMAGE)[:, 0] == 0).all()
    assert dark.id != bright.id  # new images are turned around for the one and not for the other
    for table, inverts in ((dark, False), (bright, True)):
        assert OwnImages(table=keep(table).id).inverts == inverts


SHAPES = {
    "gray": lambda images: images,
    "flat": lambda images: images.reshape(len(images), -1),
    "colors last": lambda images: np.repeat(images[..., None], 3, axis=-1),
    "colors first": lambda images: np.repeat(images[:, None], 3, axis=1),
    "one channel": lambda images: images[..., None],
    "from 0 to 1": lambda images: images / 255,
    "from -1 to 1": lambda images: (images / 127.5 - 1).astype(np.float32),
    "16 bits": lambda images: images.astype(np.uint16) * 257,
}


@pytest.mark.parametrize("change", SHAPES.values(), ids=SHAPES)
def test_arrays_of_every_shape_are_the_same_table(change: object) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8)
    images[0, 0, :2], labels = (0, 255), np.arange(60) // 10
    assert callable(change)
    plain = read_images(npz_of(images=images, labels=labels), "a.npz").table
    changed = read_images(npz_of(images=change(images), labels=labels), "a.npz").table
    off = abs(plain.images(IMAGE).astype(int) - changed.images(IMAGE).astype(int))
    assert off.max() <= 1


def test_arrays_are_paired_by_their_names() -> None:
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (60, 9, 9), dtype=np.uint8), np.arange(60) // 10
    parts = {"x_train": images[::2], "y_train": labels[::2, None], "x_test": images[1::2], "y_test": labels[1::2]}
    named = {"train_images": images[::2], "train_labels": labels[::2], "val_images": images[1::2]}
    named["val_labels"] = labels[1::2].astype(float)
    each = {f"kind {number}": images[labels == number] for number in range(6)}
    words = {"data": images, "targets": np.array([f"kind {number}" for number in labels])}
    for arrays in (parts, named, each, words):
        table = read_images(npz_of(**arrays), "set.npz").table
        assert (table.name, table.rows) == ("set", 60)
        assert len(set(table.labels("class"))) == 6


# Tasks ----------------------------------------------------------------------------------------------------------


def test_no_image_of_one_set_is_in_another() -> None:
    found: dict[TaskSet, set[int]] = {}
    for task_set in SETS:
        family = PLAIN.model_copy(update={"augment": 0.0})
        batch = family.sample_batch((60,), 2, 3, seeded("sets"), task_set=task_set)
        found[task_set] = set(numbers_of(torch.cat([batch.support_x, batch.query_x], 1), family).flatten().tolist())
        assert len(found[task_set]) > 100
    assert not found[SETS[0]] & found[SETS[1]]
    assert not found[SETS[0]] & found[SETS[2]]
    assert not found[SETS[1]] & found[SETS[2]]
    images = PLAIN.images
    assert {task_set.value: len(members) for task_set, members in images.sets.items()} == {
        "evaluation": 8,
        "held-out": 8,
        "training": 24,
    }


@pytest.mark.parametrize("table", [signs(), noise(), noise(classes=20, images=150)], ids=["signs", "noise", "many"])
def test_what_is_asked_about_was_not_learned_from(table: Table) -> None:
    family = OwnImages(table=table.id, size=IMAGE_SIDE, classes=2, images_per_class=8, augment=0.0)
    config = RunConfig(tasks=family, model=Conv(channels=2), shots=3, query_shots=3)
    tasks = draw_tasks(family, 5, 6, 3)
    assert isinstance(tasks, Tasks)
    batches = [
        family.sample_batch((20,), 3, 5, seeded("a")),
        family.held_out(tasks=20, shots=3),
        family.validation(tasks=20, shots=3, query_shots=2),
        tasks.batch,
        draw_task(family, 1, 7, {"turn": 0.0}).batch,
    ]
    for batch in batches:
        support, query = numbers_of(batch.support_x, family), numbers_of(batch.query_x, family)
        for i in range(len(support)):
            drawn = [*support[i].tolist(), *query[i].tolist()]
            assert len(set(drawn)) == len(drawn)
        owner = torch.bucketize(support, family.images.first, right=True)
        assert (owner.reshape(len(owner), -1, 2).diff(dim=1) == 0).all()  # a column is a class
        assert (owner[:, 0] != owner[:, 1]).all()
    assert batches[1].query_x.shape[1] == 2 * 5  # of eight images, three are learned from
    assert config.tasks.most_points == 8


def test_every_class_and_image_has_its_turn() -> None:
    family = OwnImages(table=noise().id, size=IMAGE_SIDE, classes=2, images_per_class=8, augment=0.0)
    batch = family.sample_batch((2000,), 1, 1, seeded("turns"))
    counts = torch.bincount(numbers_of(batch.support_x, family).flatten(), minlength=12 * 8)
    chosen = counts[counts > 0]
    assert len(chosen) == 8 * 8  # of eight classes to train on
    assert chosen.double().std() < 2 * (4000 / 64) ** 0.5  # as of a fair lot
    places = numbers_of(batch.support_x, family) % 8
    assert float(torch.corrcoef(places.T.double())[0, 1].abs()) < 0.07  # one class's image says nothing of another's


def test_augmentation_is_for_training_alone() -> None:
    strong = PLAIN.model_copy(update={"augment": 0.5})
    for task_set in SETS:
        plain, moved = (each.sample_batch((4,), 1, 1, seeded("a"), task_set=task_set) for each in (PLAIN, strong))
        assert torch.equal(plain.support_x, moved.support_x) == (task_set is not TaskSet.TRAINING)
    turned = draw_task(PLAIN, 3, 1, {"turn": 0.5}).batch
    assert not torch.equal(turned.support_x, draw_task(PLAIN, 3, 1).batch.support_x)


def test_a_class_turned_by_quarters_is_another_in_training() -> None:
    family = OwnImages(table=noise().id, size=IMAGE_SIDE, classes=2, images_per_class=8, augment=0.0, quarters=True)
    images = (
        family.sample_batch((100,), 1, 2, seeded("q")).query_x.unflatten(-1, (IMAGE_SIDE, IMAGE_SIDE)).flatten(0, 1)
    )
    known = {bytes(image.flatten().tolist()) for image in family.images.pixels}
    seen = []
    for quarters in range(4):
        shades = (255 * images).round().byte().rot90(quarters, (-2, -1)).flatten(1)
        seen.append([bytes(image.tolist()) in known for image in shades])
    assert (np.sum(seen, axis=0) == 1).all()
    assert np.sum(seen, axis=1).min() > 50
    turns = np.argmax(seen, axis=0).reshape(-1, 2, 2)
    assert (turns[:, 0] == turns[:, 1]).all()  # all images of a class alike
    upright = family.held_out(tasks=20, shots=1)
    assert numbers_of(upright.support_x, family).shape == (20, 2)


def test_the_stream_is_the_same_however_it_is_read_and_named_by_content() -> None:
    stream = TaskStream(PLAIN, meta_batch_size=3, shots=2, query_shots=3, seed=1)
    whole = stream.take(0, 5)
    again = TaskStream(PLAIN, meta_batch_size=3, shots=2, query_shots=3, seed=1)
    parts = [again.take(3, 2), again.take(0, 3)]
    for name in TaskBatch._fields:
        assert torch.equal(getattr(whole, name), torch.cat([getattr(parts[1], name), getattr(parts[0], name)]))
    renamed = keep(Table("another", signs().columns, signs().frame))
    same = TaskStream(OwnImages(size=IMAGE_SIDE, table=renamed.id), meta_batch_size=3, shots=2, query_shots=3, seed=1)
    assert torch.equal(whole.query_x, same.take(0, 5).query_x)


def test_other_sizes_and_seeds_of_the_split() -> None:
    small = OwnImages(size=12)
    assert small.sample_batch((2,), 1, 1, seeded("a")).support_x.shape == (2, 5, 144)
    assert small.images.sets[TaskSet.HELD_OUT].tolist() == PLAIN.images.sets[TaskSet.HELD_OUT].tolist()
    other = OwnImages(split_seed=1)
    assert other.images.sets[TaskSet.HELD_OUT].tolist() != small.images.sets[TaskSet.HELD_OUT].tolist()


def test_small_classes_are_left_out_and_never_move_another() -> None:
    sizes = [3 if number % 4 == 0 else 10 for number in range(20)]
    random = np.random.default_rng(0)
    names = [f"c{number:02d}" for number, size in enumerate(sizes) for _ in range(size)]
    table = keep(table_of_images("uneven", names, random.integers(0, 256, (len(names), 32, 32), dtype=np.uint8)))
    few, all_of_them = (OwnImages(table=table.id, images_per_class=least, classes=2) for least in (10, 2))
    assert few.summary().small == 5
    assert few.summary().sizes == "3 to 10"
    assert all_of_them.summary().small == 0
    for task_set in SETS:
        assert set(few.images.sets[task_set].tolist()) <= set(all_of_them.images.sets[task_set].tolist())


def test_a_task_is_called_by_its_classes() -> None:
    tasks = draw_task(PLAIN, 3, 1, {"turn": 0.3})
    names, others = tasks.labels[0].split("; ")
    assert others == "turn 0.30"
    support = numbers_of(draw_task(PLAIN, 3, 1).batch.support_x, PLAIN)[0]
    assert names == ", ".join(f"sign {number // 20 + 1:02d}" for number in support.tolist())


def test_samples_are_of_classes_to_train_on() -> None:
    found = training_samples(PLAIN, 3, 9)
    assert [sample.pixels.shape for sample in found] == [(9, 32, 32)] * 3
    assert [PLAIN.images.names.index(sample.name) for sample in found] == PLAIN.images.sets[TaskSet.TRAINING][
        :3
    ].tolist()


# Runs -----------------------------------------------------------------------------------------------------------


def test_what_to_begin_with_suits_the_table() -> None:
    config = config_for_images(signs())
    assert isinstance(config.tasks, OwnImages)
    assert (config.tasks.classes, config.tasks.images_per_class, config.shots, config.query_shots) == (5, 20, 1, 5)
    few = config_for_images(noise(classes=8, images=3)).tasks
    assert isinstance(few, OwnImages)
    assert (few.classes, few.images_per_class) == (2, 3)
    random = np.random.default_rng(3)
    for sizes, ways in (((5, 30, 30, 30, 30, 30), 2), ((2, 20, 20, 20, 20, 20), 2), ((1,) * 30 + (10,) * 6, 2)):
        names = [f"c{number:02d}" for number, size in enumerate(sizes) for _ in range(size)]
        uneven = table_of_images("uneven", names, random.integers(0, 256, (len(names), 32, 32), dtype=np.uint8))
        suited = config_for_images(uneven).tasks
        assert isinstance(suited, OwnImages)
        assert suited.classes == ways
        suited.check(2)


def test_an_evaluation_asks_for_no_more_images_than_there_are() -> None:
    family = OwnImages(table=noise(images=12).id, images_per_class=12, classes=2)
    config = RunConfig(tasks=family, model=Conv(channels=2, blocks=2), shots=1, query_shots=2)
    found = evaluate(config.untrained(), config, tasks=10, steps=1, rivals=("means", "feature-means"))
    assert list(found.by_shots["learned"]) == [1, 2, 3, 5, 7, 10]
    assert set(found.rivals) == {"means", "feature-means"}
    assert found.outside is None  # nothing is deformed, so nothing lies outside
    fits = landscape(config.untrained(), family, ("turn", "shift"), seed=0, given={}, shots=1, steps=1)
    assert np.isfinite(fits.error).all()
    assert family.judging(1) == JUDGED
    assert family.judging(11) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shots": 15, "query_shots": 10}, "shots + query_shots = 25 is not allowed with tasks.family = images"),
        ({"tasks.images_per_class": 1}, "tasks.images_per_class"),
        ({"tasks.classes": 21}, "tasks.classes"),
        ({"tasks.augment": -1}, "tasks.augment"),
        ({"tasks.table": "x"}, "the hash of a table"),
    ],
)
def test_bad_settings_get_a_sentence(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config_for_images(signs()).with_settings(settings)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_table_of_rows_is_refused_as_images_and_the_other_way_round(
    store: Store, store_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = store.all_tables()[0]
    with pytest.raises(ConfigError, match=r"Example: sensors is none of images"):
        OwnImages(table=rows.id).check(2)
    with pytest.raises(ConfigError, match="is not in this store"):
        OwnImages(table="0" * 64).check(2)
    assert main(["train", "--table", signs().id[:8], "--output", "class", "--store", store_url]) == 2
    assert "--output are not allowed with images" in capsys.readouterr().err


def test_a_run_on_images_goes_to_another_lab_with_them_or_without(store: Store, tmp_path: Path) -> None:
    table = noise()
    store.add_table(table)
    run_id = trained(store, config_for_images(table).with_settings(SMALL)).id
    assert store.run(run_id).name == "noise 1"
    assert store.runs_of_table(table.id) == [run_id]
    bare, whole = export_run(store, run_id), export_run(store, run_id, with_rows=True)
    assert len(bare) < len(whole) - 80_000
    other = Store(f"sqlite:///{tmp_path / 'other' / 'maml.db'}")
    import_run(other, bare)
    assert other.table_or_none(table.id) is None
    import_run(other, whole)
    kept = other.table_or_none(table.id)
    assert kept is not None
    assert np.array_equal(kept.images(IMAGE), table.images(IMAGE))
    other.close()


def test_from_a_folder_to_an_evaluation_at_the_command_line(
    store_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "things", classes=9, images=6)
    (folder / "notes.txt").write_text("x")
    settings = [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    assert main(["tables", "add", str(folder)]) == 0
    printed = capsys.readouterr()
    assert "Left out: files that are no images (1)." in printed.err
    assert "things: 54 images" in printed.out
    run = answer(capsys, "train", "--table", str(folder), *settings)["run"]
    found = answer(capsys, "evaluate", run, "--tasks", "10", "--steps", "1")
    assert set(found["baselines"]) >= {"random", "means", "feature-means"}
    assert list(found["by_shots"]["learned"]) == ["1", "2", "3", "5"]  # of six images
    support = folder_of(tmp_path / "new", classes=2, images=2)
    said = answer(capsys, "adapt", run, str(support), str(folder / "kind 4"))
    assert said["files"] == [f"{number}.png" for number in range(6)]
    for shares, name in zip(said["shares"], said["classes"], strict=True):
        assert max(shares, key=shares.get) == name
    assert main(["adapt", run, str(support), str(support / "kind 1" / "0.png")]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head == "file,class,share"
    assert line.startswith("0.png,kind ")
    for known, asked, reason in (
        (folder, folder, "has 9 classes, and this run tells 2 apart"),
        (folder / "kind 1", folder, "for each of at least two classes"),
        (folder / "notes.txt", folder, "holds no image"),
        (tmp_path / "nowhere", folder, "nowhere cannot be read"),
        (support, tmp_path / "nowhere", "nowhere cannot be read"),
    ):
        assert main(["adapt", run, str(known), str(asked)]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert error.count("\n") == 1


def test_new_images_are_seen_as_those_of_a_table(tmp_path: Path) -> None:
    for number in (0, 1, 2):
        folder = tmp_path / "support" / f"kind {number}"
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(255 - signs().images(IMAGE)[20 * number + i]).save(folder / f"{i}.png")
    (tmp_path / "query").mkdir()
    Image.fromarray(255 - signs().images(IMAGE)[25]).save(tmp_path / "query" / "which.png")
    found = read_images_task(PLAIN, tmp_path / "support", tmp_path / "query")
    known = torch.from_numpy(signs().images(IMAGE).copy()).flatten(1).float() / 255
    assert found.classes == ["kind 0", "kind 1", "kind 2"]
    assert found.files == ["which.png"]
    assert torch.equal(found.batch.support_x[0], known[[0, 1, 20, 21, 40, 41]])
    assert torch.equal(found.batch.query_x[0], known[[25]])
    assert found.batch.support_y[0].argmax(-1).tolist() == [0, 0, 1, 1, 2, 2]
