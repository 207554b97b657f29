"""Shards: the ids of the texts, whatever the format, the block size or an interruption; and nothing else is taken for them."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tfllm.data import lm_dataset, open_shards, sources, tokenize_files
from tfllm.data.shards import FORMATS

RNG = np.random.default_rng(0)
WORDS = [
    "To",
    "be",
    ",",
    "or",
    "not",
    "词",
    "é",
    " ",
    "  ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\u3000",
    "1984",
    "'s",
    "😀",
    " \n ",
]
TEXT = "".join(RNG.choice(WORDS, 40_000))
TOKENIZER = tfllm.BPETokenizer.train(TEXT[:20_000], vocab_size=300)


def normal(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


def ids_of(*texts):
    end = [TOKENIZER.end_id]
    return np.concatenate([np.append(ids, end) for ids in TOKENIZER.encode_bulk(list(texts))])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    (tmp_path / "b.jsonl").write_text('{"text": "or not"}\n\n{"id": 2, "text": ""}\n{"text": "be 词\\n"}')
    return [tmp_path / "a.txt", tmp_path / "b.jsonl"]


@pytest.fixture
def shards(texts, tmp_path):
    return tokenize_files(texts, TOKENIZER, tmp_path / "out", shard_tokens=12_800)


def test_they_hold_the_ids_of_the_whole_documents(shards):
    expected = ids_of(normal(TEXT), "or not", "be 词\n")
    np.testing.assert_array_equal(shards.read(0, shards.num_tokens), expected)
    np.testing.assert_array_equal(shards.read(12_000, 26_301), expected[12_000:26_301])
    counts = [shard["tokens"] for shard in shards.manifest["shards"]]
    assert counts[:-1] == [12_800] * (len(counts) - 1)
    assert (shards.manifest["documents"], shards.manifest["dtype"]) == (3, "uint16")
    assert shards.load_tokenizer().to_json() == TOKENIZER.to_json()


def test_the_bytes_are_little_endian_ids_and_the_digests_those_of_the_files(shards):
    files = [shards.folder / shard["file"] for shard in shards.manifest["shards"]]
    raw = np.concatenate([np.fromfile(file, "<u2") for file in files])
    np.testing.assert_array_equal(raw[: shards.num_tokens], shards.read(0, shards.num_tokens))
    assert not raw[shards.num_tokens :].any()
    for file, shard in zip(files, shards.manifest["shards"], strict=True):
        assert hashlib.sha256(file.read_bytes()).hexdigest() == shard["sha256"]


@pytest.mark.parametrize("block", [1, 1000, 2**17])
def test_how_much_is_read_at_a_time_changes_nothing(shards, texts, tmp_path, monkeypatch, block):
    if block == 1:
        texts[0].write_bytes(texts[0].read_bytes()[:40_000])  # a byte at a time takes its time
        shards = tokenize_files(texts, TOKENIZER, tmp_path / "short", shard_tokens=12_800)
    monkeypatch.setattr(sources, "_LONGEST", 2**16)  # a whole block would else be read before the first cut
    monkeypatch.setattr(sources, "_BLOCK", block)
    again = tokenize_files(texts, TOKENIZER, tmp_path / "again", shard_tokens=12_800)
    assert contents(again.folder) == contents(shards.folder)


def test_text_without_line_ends_is_cut_between_words_or_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_SHORTEST", 64)
    monkeypatch.setattr(sources, "_LONGEST", 256)
    for text in ("to be or not " * 100, "词" * 1000, "a\r" * 1000, "\r\n" * 1000):
        (tmp_path / "long.txt").write_bytes(text.encode())
        pieces = list(sources.read_pieces([tmp_path / "long.txt"]))
        assert "".join(piece.text for piece in pieces) == normal(text)
        assert len(pieces) > 3
        assert [piece.ends_document for piece in pieces] == [False] * (len(pieces) - 1) + [True]


@pytest.mark.parametrize("format", ["tfrecord", "arrayrecord"])
@pytest.mark.parametrize("length", [32, 25])
def test_every_format_gives_the_same_batches(shards, texts, tmp_path, format, length):
    if format == "arrayrecord":
        pytest.importorskip("array_record")
    other = tokenize_files(texts, TOKENIZER, tmp_path / format, format=format, shard_tokens=12_800)
    assert len(other.manifest["shards"]) == len(shards.manifest["shards"]) > 2
    ids = shards.read(0, shards.num_tokens)
    for shuffle in (True, False):
        made = [lm_dataset(s, None, length, 9, seed=5, shuffle=shuffle) for s in (ids, shards, tmp_path / format)]
        for expected, *found in zip(*(batches.repeat(2) for batches in made), strict=True):
            for batch in found:
                for one, other_one in zip(batch, expected, strict=True):
                    np.testing.assert_array_equal(one, other_one)


def test_tensorflow_reads_the_tfrecords(shards, texts, tmp_path):
    folder = tokenize_files(texts, TOKENIZER, tmp_path / "records", format="tfrecord", shard_tokens=12_800).folder
    records = tf.data.TFRecordDataset(sorted(map(str, folder.glob("*.tfrecord"))))
    ids = np.concatenate([tf.io.decode_raw(record, tf.uint16).numpy() for record in records])
    np.testing.assert_array_equal(ids[: shards.num_tokens], shards.read(0, shards.num_tokens))


def test_large_vocabularies_take_int32(tmp_path):
    characters = "".join(map(chr, [*range(32, 55_000), *range(70_000, 90_000)]))
    (tmp_path / "a.txt").write_text(characters[60_000:74_000])
    for format in ("raw", "tfrecord"):
        tokenizer = tfllm.CharTokenizer(characters)
        shards = tokenize_files(tmp_path / "a.txt", tokenizer, tmp_path / format, format=format, shard_tokens=512)
        assert shards.manifest["dtype"] == "int32"
        np.testing.assert_array_equal(shards.read(0, shards.num_tokens), np.arange(60_001, 74_001))


KILL_EVERYWHERE = """
import json, os, pathlib, signal, sys
import tfllm
from tfllm.data import tokenize_files

texts, tokenizer, place, format = sys.argv[1:3], tfllm.load_tokenizer(sys.argv[3]), pathlib.Path(sys.argv[4]), sys.argv[5]

def run(out, kill_at=0):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes = 0
    def hook(event, arguments):
        nonlocal changes
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and str(arguments[0]).startswith(str(out)):
            changes += 1
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    tokenize_files(texts, tokenizer, out, shard_tokens=12_800, format=format)
    os._exit(0)

assert run(place / "0") == 0
moment, codes = 0, []
while not codes or codes[-1] != 0:
    moment += 1
    codes.append(run(place / str(moment), moment))
    assert run(place / str(moment), moment * 2) in (0, -signal.SIGKILL)
    assert run(place / str(moment)) == 0
print(json.dumps(codes))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_killed_at_any_change_of_the_disk_and_started_again_it_leaves_the_same_bytes(texts, tmp_path):
    TOKENIZER.save(tmp_path / "tokenizer.json")
    place = tmp_path / "runs"
    place.mkdir()
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        KILL_EVERYWHERE,
        *map(str, texts),
        str(tmp_path / "tokenizer.json"),
    ]
    done = subprocess.run([*command, str(place), "raw"], check=True, capture_output=True, text=True)
    codes = json.loads(done.stdout.splitlines()[-1])
    assert set(codes[:-1]) == {-9}
    assert len(codes) > 20
    expected = contents(place / "0")
    assert sorted(expected)[0] == "manifest.json"
    for moment in range(1, len(codes) + 1):
        assert contents(place / str(moment)) == expected, moment


def test_what_is_finished_is_left_and_what_differs_refused(shards, texts, tmp_path):
    out, before = shards.folder, [path.stat().st_mtime_ns for path in sorted(shards.folder.iterdir())]
    again = tokenize_files(texts, TOKENIZER, out, shard_tokens=12_800)
    assert again.manifest == shards.manifest
    assert [path.stat().st_mtime_ns for path in sorted(out.iterdir())] == before
    other = tfllm.BPETokenizer.train("other", vocab_size=260)
    with pytest.raises(FileExistsError, match=r"unless force is given; got .*made with another tokenizer"):
        tokenize_files(texts, other, out, shard_tokens=12_800)
    with pytest.raises(FileExistsError, match="made with another shard_tokens"):
        tokenize_files(texts, TOKENIZER, out, shard_tokens=256)
    texts[1].write_text('{"text": "or NOT"}\n')
    with pytest.raises(FileExistsError, match="other files, or with files that have changed"):
        tokenize_files(texts, TOKENIZER, out, shard_tokens=12_800)
    forced = tokenize_files(texts, other, out, shard_tokens=25_600, force=True)
    assert {path.name for path in out.iterdir()} == {"manifest.json", "tokenizer.json"} | {
        shard["file"] for shard in forced.manifest["shards"]
    }
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text('{"kind": "of something else"}')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("keep me")
    for name in ("mine", "full"):
        with pytest.raises(FileExistsError, match="free or a folder of shards; got"):
            tokenize_files(texts, TOKENIZER, tmp_path / name, force=True)


@pytest.mark.parametrize("place", [0, 3000, -1])
def test_a_flipped_byte_is_found(shards, place):
    path = shards.folder / shards.manifest["shards"][1]["file"]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    open_shards(shards.folder)
    with pytest.raises(ValueError, match=r"unchanged files; got '.*shard-00001.bin', whose SHA-256 is another one"):
        open_shards(shards.folder, verify=True)


def test_damaged_folders_are_refused(shards):
    folder, manifest = shards.folder, json.loads((shards.folder / "manifest.json").read_text())
    path = folder / manifest["shards"][1]["file"]
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=r"whole shards; got '.*shard-00001.bin' of 25598 bytes.* says 25600"):
        open_shards(folder)
    with pytest.raises(ValueError, match="whole shards"):
        lm_dataset(folder, None, 8, 2)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"every shard of its manifest; got .* without shard-00001.bin"):
        open_shards(folder)
    path.write_bytes(whole)
    wrong = [
        {"kind": "another"},
        {"version": 2},
        {"tokens": 5},
        {"dtype": "float32"},
        {"format": "csv"},
        {"shards": []},
        {"shards": [{**manifest["shards"][0], "file": "../shard-00000.bin"}], "tokens": 12_800},
        {"shards": [{**manifest["shards"][0], "bytes": 1}], "tokens": 12_800},
        {"shards": None},
    ]
    for change in wrong:
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ValueError, match=r"folder must hold a manifest.json of tfllm shards; got"):
            open_shards(folder)
    (folder / "manifest.json").write_bytes(b"\xff[")
    with pytest.raises(ValueError, match="which is not one"):
        open_shards(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"finished folder of shards; got .* has no manifest.json"):
        open_shards(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9 au lait", r"UTF-8 text; got '.*a.txt', which is not at byte 3"),
        ("a.txt", b"x\n" * 50_000 + b"\xff", r"UTF-8 text; got '.*a.txt', which is not at byte 100000"),
        ("a.txt", b"PNG\0\1", r"NUL byte at byte 3 \(a binary file, or UTF-16\)"),
        ("a.txt", "text".encode("utf-16"), r"NUL byte at byte 3"),
        ("a.txt", b"", r"files must hold text; got \['.*a.txt'\], which are empty"),
        ("a.txt", b"\xef\xbb\xbf", "files must hold text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "JSON object with a text in 'text'; got another line at byte 14"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "another line at byte 14"),
        ("a.jsonl", b'{"text": 5}\n', "another line at byte 0"),
        ("a.jsonl", b'["a"]\n', "another line at byte 0"),
        ("a.jsonl", b'{"text": "a"}\n\xff\n', "UTF-8 text; got .* not at byte 14"),
        ("a.jsonl", b"\n \n", "files must hold text"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        tokenize_files(tmp_path / name, TOKENIZER, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        open_shards(tmp_path / "out")


def test_bad_arguments_are_refused(shards, texts, tmp_path):
    with pytest.raises(ValueError, match=r"format must be one of \['raw', 'tfrecord', 'arrayrecord'\]; got 'csv'"):
        tokenize_files(texts, TOKENIZER, tmp_path / "new", format="csv")
    with pytest.raises(ValueError, match="shard_tokens must be a multiple of 256; got 100"):
        tokenize_files(texts, TOKENIZER, tmp_path / "new", shard_tokens=100)
    with pytest.raises(FileNotFoundError, match=r"files or folders; got '.*missing.txt'"):
        tokenize_files(tmp_path / "missing.txt", TOKENIZER, tmp_path / "new")
    with pytest.raises(ValueError, match="at least one file; got none"):
        tokenize_files([], TOKENIZER, tmp_path / "new")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="which has none"):
        tokenize_files(tmp_path / "empty", TOKENIZER, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"start and stop must lie in \[0, "):
        shards.read(0, shards.num_tokens + 1)
    with pytest.raises(ValueError, match="tokenizer must be the one that made the shards"):
        lm_dataset(shards, tfllm.CharTokenizer("abc"), 8, 2)


def test_folders_mean_their_text_files(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("deep/c.ndjson", "b.txt", "a.jsonl", "picture.png"):
        (tmp_path / name).write_text("x")
    names = [path.name for path in sources.list_files(tmp_path)]
    assert names == ["a.jsonl", "b.txt", "c.ndjson"]


def test_lone_surrogates_of_json_become_the_replacement_character(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude00"}')
    (piece,) = sources.read_pieces([tmp_path / "a.jsonl"])
    assert piece.text == "a\ufffdb 😀"


def test_every_format_has_its_own_file_name():
    assert len(set(FORMATS.values())) == len(FORMATS) == 3


def flip(path, place=5):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_force_makes_damaged_shards_again(texts, tmp_path):
    out = tmp_path / "out"
    made = contents(tokenize_files(texts, TOKENIZER, out, shard_tokens=4096).folder)
    flip(out / "shard-00001.bin")
    (out / "shard-00002.bin").unlink()
    (out / "shard-notes.txt").write_text("mine")
    with pytest.raises(FileNotFoundError, match=r"without shard-00002.bin"):
        tokenize_files(texts, TOKENIZER, out, shard_tokens=4096)
    tokenize_files(texts, TOKENIZER, out, shard_tokens=4096, force=True)
    assert (out / "shard-notes.txt").read_text() == "mine"  # what is not ours stays
    (out / "shard-notes.txt").unlink()
    assert contents(out) == made


def test_what_was_damaged_since_an_interruption_is_made_anew(texts, tmp_path):
    def stop(state):
        if state["tokens"] > 3 * 4096:
            raise KeyboardInterrupt

    out, whole = tmp_path / "out", tmp_path / "whole"
    made = contents(tokenize_files(texts, TOKENIZER, whole, shard_tokens=4096).folder)
    for damage in (lambda: flip(out / "shard-00000.bin"), (out / "shard-00001.bin").unlink):
        with pytest.raises(KeyboardInterrupt):
            tokenize_files(texts, TOKENIZER, out, shard_tokens=4096, force=True, progress=stop)
        damage()
        tokenize_files(texts, TOKENIZER, out, shard_tokens=4096)
        assert contents(out) == made


def test_a_file_that_was_refused_can_be_mended(tmp_path):
    path, out = tmp_path / "a.txt", tmp_path / "out"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="UTF-8"):
        tokenize_files(path, TOKENIZER, out)
    path.write_text("café")
    assert tokenize_files(path, TOKENIZER, out).num_tokens == len(ids_of("café"))


def test_progress_of_another_kind_is_refused(texts, tmp_path):
    (tmp_path / "progress.json").write_text('{"kind": "tfllm shards"}')
    with pytest.raises(FileExistsError, match=r"whose progress.json is of something else"):
        tokenize_files(texts, TOKENIZER, tmp_path)


def test_shards_of_another_tokenizer_are_refused(shards):
    other = tfllm.BPETokenizer.train("another text, another text", vocab_size=TOKENIZER.vocab_size)
    with pytest.raises(ValueError, match="tokenizer must be the one that made the shards"):
        lm_dataset(shards, other, 16, 2)
    assert len(lm_dataset(shards, TOKENIZER, 16, 2)) == len(lm_dataset(shards, None, 16, 2))
