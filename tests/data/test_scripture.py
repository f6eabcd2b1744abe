"""Two Bibles as mod2imp writes them: to plain text, paired by what they say, split by books."""

import pytest

from jaxgen.data import datasets, store
from jaxgen.data.pairs import Verse, scripture
from jaxgen.errors import UserError

MANUAL = "downloads/manual/scripture"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's own directories."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(directory, **files):
    """Files "web" and "sparv", each a mapping from an entry's key to its markup."""
    manual = directory / MANUAL
    manual.mkdir(parents=True, exist_ok=True)
    start = "$$$[ Module Heading ]\n\n$$$[ Testament 1 Heading ]\n<milestone n='$Rev$'/>\n"
    for name, entries in files.items():
        text = start + "".join(f"$$${key}\n{markup}\n" for key, markup in entries.items())
        (manual / f"{name}.imp").write_text(text, encoding="utf-8")


def read(directory):
    """(book, chapter, verse): (english, spanish), of all that is prepared."""
    verses = [verse for part in scripture(directory) for verse in part]
    return {(v.book, v.chapter, v.verse): (v.english, v.spanish) for v in verses}


@pytest.mark.parametrize(
    "markup, plain",
    [
        (
            '<w lemma="strong:H0430">In</w> <w lemma="strong:H7225">beginning</w>, <w>God</w><note '
            'placement="foot"><reference type="annotateRef">1:1 </reference>Or, <rdg>“El”</rdg>.'
            "</note><w>created</w> <w>all</w>. <div eID='gen25' type='x-p'/>",
            "In beginning, God created all.",
        ),
        (
            '<div type="x-milestone" subType="x-preverse" sID="pv1"/><speaker>Lover</speaker> <lg '
            'sID="g1"/> <l level="1" sID="g2"/>Let him<l eID="g2" level="1"/><l level="2"/>kiss me;'
            '<note placement="foot">A kiss.</note> “yes<note>.</note>”.',
            "Let him kiss me; “yes”.",
        ),
        (
            '<title canonical="true" type="psalm">A Psalm by David.<note>So.</note></title> <l/>How'
            ' many!<title type="x-s">THE NEXT PART</title>',
            "A Psalm by David. How many!",
        ),
        (
            '<w lemma="strong:H8033">hay</w><transChange type="added">allí</transChange><w>oro</w> '
            '(<transChange type="added">dijo ella</transChange>) ¿<transChange>él</transChange>, '
            "<transChange>o no</transChange>?",
            "hay allí oro (dijo ella) ¿él, o no?",
        ),
        (
            '<q marker="" who="Jesus"><w>only</w> born</q><note>μονογενη</note><q marker="" '
            'who="Jesus"><w>Son</w>.\n<w>Amen</w>’s</q> &amp; <seg>end</seg> <name>God</name>’s.',
            "only born Son. Amen’s & end God’s.",
        ),
        (
            '<w>Amen</w>. <div canonical="true" eID="g9" osisID="Rev" type="book"/> <div sID="g8" '
            'type="glossary"/> <title>Glossary</title> The words.\n<list><item>Abba</item></list>',
            "Amen.",
        ),
    ],
)
def test_markup_becomes_plain_text(tmp_path, markup, plain):
    write(tmp_path, web={"Genesis 1:1": markup}, sparv={"Genesis 1:1": markup})
    assert read(tmp_path) == {("Genesis", 1, 1): (plain, plain)}


def test_verses_are_joined_by_their_key_in_the_english_order(tmp_path):
    write(
        tmp_path,
        web={
            "Genesis 0:0": "Preface",
            "Genesis 1:0": '<chapter n="1"/>',
            "Genesis 1:2": "Two.",
            "Tobit 1:1": "Not in the other.",
            "I Kings 2:1": "Kings.",
            "Luke 17:36": '<note placement="foot">Some add a verse.</note>',
            "Luke 17:37": "Where?",
        },
        sparv={
            "Luke 17:37": "¿Dónde?",
            "Luke 17:36": "Dos estarán.",
            "I Kings 2:1": "Reyes.",
            "Genesis 1:1": "Uno.",
            "Genesis 1:2": "Dos.",
            "Genesis 1:0": "Capítulo",
        },
    )
    records = datasets.load("scripture", "train", tmp_path)
    found = [
        (r["book"].decode(), int(r["chapter"]), int(r["verse"]), r["spanish"].decode())
        for r in records.__getitems__(range(len(records)))
    ]
    assert found == [
        ("Genesis", 1, 2, "Dos."), ("I Kings", 2, 1, "Reyes."), ("Luke", 17, 37, "¿Dónde?")
    ]  # fmt: skip


def test_what_only_the_spanish_text_adds_is_taken_off(tmp_path):
    spanish = {
        "Psalms 119:1": "ALEPH. BIENAVENTURADOS los perfectos.",
        "Psalms 119:2": "OH Jehová.",
        "Psalms 119:9": "BETH ¿Con qué?",
        "Galatians 6:18": "Gracia. Amén. Enviada de Roma á los Gálatas.",
        "Titus 3:15": "Amén. A Tito, obispo, escrita de Nicópolis. De Macedonia.",
        "John 20:30": "Amén. Y también hizo otras señales.",
    }
    write(tmp_path, web={key: key for key in spanish}, sparv=spanish)
    assert [spoken for _, spoken in read(tmp_path).values()] == [
        "BIENAVENTURADOS los perfectos.", "OH Jehová.", "¿Con qué?",
        "Amén.", "Amén. Y también hizo otras señales.", "Gracia. Amén.",
    ]  # fmt: skip


def test_where_the_numbers_differ_verses_are_paired_by_what_they_say(tmp_path):
    """Jonah 1:17 is 2:1 in Spanish, whose 2:10 says what two do: it is left out."""
    first = [f"Jonah 1:{n}" for n in range(16, 18)]
    second = [f"Jonah 2:{n}" for n in range(1, 11)]
    job = {f"Job {c}:{n}": f"Job {c}:{n}" for c, end in ((38, 42), (39, 31)) for n in range(1, end)}
    write(
        tmp_path,
        web={key: key for key in first + second} | job,
        sparv={first[0]: "16"} | {key: str(17 + n) for n, key in enumerate(second)} | job,
    )
    found = read(tmp_path)
    jonah = {
        english: spanish for (book, _, _), (english, spanish) in found.items() if book == "Jonah"
    }
    assert jonah["Jonah 1:16"] == "16" and jonah["Jonah 1:17"] == "17"
    assert jonah["Jonah 2:1"] == "18" and jonah["Jonah 2:8"] == "25"
    assert "Jonah 2:9" not in jonah and "Jonah 2:10" not in jonah
    assert found["Job", 38, 39] == ("Job 38:39", "Job 39:1")
    assert found["Job", 39, 26] == ("Job 39:26", "Job 39:29")
    assert ("Job", 39, 27) not in found and found["Job", 38, 1] == ("Job 38:1", "Job 38:1")


def test_books_are_held_out_whole_and_what_they_say_word_for_word_too(tmp_path):
    english = {
        "Ruth 1:1": "Grace.", "Ruth 1:2": "A.", "Esther 1:1": "B.", "Esther 1:2": "C.",
        "Genesis 1:1": "Grace.", "Genesis 1:2": "D.", "Genesis 1:3": "B. And more.",
    }  # fmt: skip
    spanish = {
        "Ruth 1:1": "Gracia.", "Ruth 1:2": "a.", "Esther 1:1": "b.", "Esther 1:2": "a.",
        "Genesis 1:1": "Otra.", "Genesis 1:2": "b.", "Genesis 1:3": "e.",
    }  # fmt: skip
    write(tmp_path, web=english, sparv=spanish)
    training, dev, test = scripture(tmp_path)
    assert training == (Verse("Genesis", 1, 3, "B. And more.", "e."),)
    assert dev == (Verse("Esther", 1, 1, "B.", "b."),)
    assert test == (Verse("Ruth", 1, 1, "Grace.", "Gracia."), Verse("Ruth", 1, 2, "A.", "a."))


def test_without_the_files_it_is_said_how_to_get_them(tmp_path):
    how = r"apt-get install sword-text-web sword-text-sparv libsword-utils.*mod2imp engWEB2015eb"
    with pytest.raises(UserError, match=how + r".*downloads/manual/scripture of"):
        scripture(tmp_path)
    (entry,) = [entry for entry in datasets.catalogue(tmp_path) if entry.name == "scripture"]
    assert entry.path is None and "mod2imp spaRV1909eb > sparv.imp" in entry.get
    write(tmp_path)
    with pytest.raises(UserError, match=r"scripture holds no web\.imp: on Debian, run"):
        scripture(tmp_path)
    write(tmp_path, web={"Genesis 1:1": "One."})
    with pytest.raises(UserError, match=r"scripture holds no sparv\.imp: on Debian, run"):
        scripture(tmp_path)
    assert store.find("scripture", tmp_path) is None


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", r"sparv\.imp holds no verses as mod2imp writes them"),  # a module it didn't find
        (b"<osis>Genesis 1:1 Uno.</osis>", r"sparv\.imp holds no verses"),
        (b"$$$Genesis 1:0\nCap\xc3\xadtulo\n", r"sparv\.imp holds no verses"),
        (b"$$$Genesis 1:1\nUno, Se\xf1or.\n", r"sparv\.imp is not UTF-8"),
        ("$$$Génesis 1:1\nUno.\n".encode(), "have no verse in common: on Debian"),
    ],
)
def test_another_file_is_named(tmp_path, content, message):
    write(tmp_path, web={"Genesis 1:1": "One."})
    (tmp_path / MANUAL / "sparv.imp").write_bytes(content)
    with pytest.raises(UserError, match=message):
        scripture(tmp_path)
    assert store.find("scripture", tmp_path) is None


def test_the_real_verses(prepared_sets):
    if store.find("scripture", prepared_sets) is None:
        pytest.skip("no prepared scripture: set TFDS_DATA_DIR")
    parts = training, dev, test = scripture(prepared_sets)
    assert [len(part) for part in parts] == [29_183, 946, 914]
    assert len({verse.book for part in parts for verse in part}) == 66
    text = "".join(v.english + v.spanish for part in parts for v in part)
    assert {c for c in text if not c.isalpha()} == set(" ,.;:?!¿¡()-—‘’“”")
    held_out = {text for part in (dev, test) for v in part for text in (v.english, v.spanish)}
    assert not any(v.english in held_out or v.spanish in held_out for v in training)
    by_place = {(v.book, v.chapter, v.verse): v for v in training}
    assert "Jonás" in by_place["Jonah", 1, 17].spanish
    assert by_place["Job", 40, 24].spanish.startswith("¿Tomarálo alguno por sus ojos")
