"""Cleaning and segmentation: known answers, near misses, hostile strings, and the same in a pipeline."""

import functools
import html.parser
import re
import string
import sys
import unicodedata

import pytest
import tensorflow as tf

import tfllm.text
from tfllm.text import cleaning
from tfllm.text.cleaning import (
    MASKS,
    Cleaner,
    lower_case,
    mask_numbers,
    mask_pii,
    mask_urls,
    normalize_space,
    normalize_unicode,
    remove_duplicate_lines,
    remove_punctuation,
    remove_special_characters,
    remove_stop_words,
    segment,
    split_words,
    stop_words,
    strip_html,
    to_half_width,
)

STEPS = [
    lower_case,
    functools.partial(lower_case, casefold=True),
    *(functools.partial(normalize_unicode, form=form) for form in ("NFC", "NFD", "NFKC", "NFKD")),
    to_half_width,
    normalize_space,
    functools.partial(normalize_space, keep_lines=False),
    remove_punctuation,
    remove_special_characters,
    mask_numbers,
    strip_html,
    mask_urls,
    mask_pii,
    segment,
    functools.partial(segment, chinese="jieba"),
    remove_stop_words,
    remove_duplicate_lines,
]
TEXTS = [
    "",
    " \t\n　\n",
    "Hello,  WORLD!\r\n\r\n\r\nBye\x0b…",
    "<p>Straße &amp; Caf\u0065\u0301</p> <email> 3 < 4",
    "我爱自然语言处理，电话：１３８００１３８０００。",
    "emoji 👨‍👩‍👧 1️⃣ 🇨🇳 and \u200b\ufeff\x00 zero\x00",
    "हिन्दी पाठ और ไทย 日本語カナ 한국어",
    "http://a.b/c?d=e a@b.co 10.0.0.1 fe80::1 4111111111111111 123-45-6789",
    "\ufffd\U000e0001\U0010ffff\u0301",
]


def name_of(step):
    return f"{getattr(step, 'func', step).__name__}{getattr(step, 'keywords', '')}"


@pytest.mark.parametrize("step", STEPS, ids=name_of)
def test_a_step_keeps_nothing_as_nothing_and_leaves_masks(step):
    assert step("") == ""
    assert step("   \n \t").strip() == ""
    assert step(" ".join(MASKS)) == " ".join(MASKS)


@pytest.mark.parametrize("step", STEPS, ids=name_of)
def test_a_step_twice_is_a_step_once(step):
    if step is strip_html:
        return  # `&amp;lt;` means `&lt;` once and `<` twice
    for text in TEXTS:
        assert step(step(text)) == step(text)


@pytest.mark.parametrize("step", STEPS, ids=name_of)
def test_a_pipeline_cleans_as_a_call_does(step):
    clean = Cleaner(step)
    expected = [clean(text).encode() for text in TEXTS]
    assert list(clean.dataset(tf.data.Dataset.from_tensor_slices(TEXTS)).as_numpy_iterator()) == expected
    (batch,) = clean.dataset(tf.data.Dataset.from_tensor_slices(TEXTS).batch(len(TEXTS)))
    assert batch.numpy().tolist() == expected
    assert tf.function(clean.tensor)(tf.constant(TEXTS)).numpy().tolist() == expected


# 100 kB each, of the kinds that make patterns with two ways to read a run take minutes or hours.
HOSTILE = [
    "a" * 100_000,
    "<" + "a" * 100_000,
    "<a" * 50_000,
    "<a " + " " * 100_000,
    "<!--" * 25_000,
    "<script>" * 12_500,
    "</script" * 12_500,
    "<!a" * 33_000,
    '<a "' * 25_000,
    "<a" + "\"'<a'\"" * 14_000,
    "&#" * 50_000,
    "&#" + "9" * 100_000 + ";",
    "&#x" + "0" * 100_000,
    "1" * 100_000,
    "1," * 50_000,
    "1,234" + ",567" * 25_000 + "8",
    "1e" * 50_000,
    "1.1" * 33_000,
    "a@" * 50_000,
    "a." * 50_000,
    "a@" + "a." * 50_000 + "1",
    "http://" * 14_000,
    "http://a" + ")" * 100_000,
    "www." * 25_000,
    ":" * 100_000,
    "a:" * 50_000,
    "+1 " * 33_000,
    "+1" + "(" * 100_000,
    "4111 " * 20_000,
    "1-" * 50_000,
    " " * 100_000,
    " \n" * 50_000,
    "a'" * 50_000,
    "e\u0301" * 50_000,
    "<email" * 16_000,
    "\ud800" * 100_000,
    "我" * 20_000,
]


def test_hostile_strings_cost_no_more_than_others():
    for text in HOSTILE:
        for step in STEPS:
            step(text)


# ---------------------------------------------------------------- the cleaner


def test_steps_run_in_their_order():
    assert Cleaner(str.upper, lambda text: text + "b")("a") == "Ab"
    assert Cleaner()("a") == "a"
    assert Cleaner(str.upper) == Cleaner(str.upper) != Cleaner(str.lower)


def test_the_documents_steps_for_english_and_chinese():
    clean = Cleaner(
        strip_html,
        normalize_unicode,
        lower_case,
        mask_pii,
        mask_numbers,
        remove_special_characters,
        functools.partial(segment, chinese="jieba"),
        remove_stop_words,
        functools.partial(remove_punctuation, replacement=" "),
        normalize_space,
    )
    assert clean("<b>The</b> price of it: ￥1,200! See http://a.cn/x, 😀 or don't.") == "price <number> see <url>"
    assert clean("<p>我的邮箱是ａ＠ｂ．ｃｎ，目的是学习自然语言处理。</p>") == "邮箱 <email> 目的 学习 自然语言 处理"


def test_lists_stay_lists():
    assert Cleaner(str.strip)((" a", "b ", "")) == ["a", "b", ""]
    assert Cleaner(str.strip)([]) == []


def test_structures_shapes_and_labels_stay():
    clean = Cleaner(lower_case)
    pairs = clean.dataset(tf.data.Dataset.from_tensor_slices({"text": [["A", "B"], ["C", "D"]], "label": [1, 2]}))
    assert pairs.element_spec == {"text": tf.TensorSpec([2], tf.string), "label": tf.TensorSpec([], tf.int32)}
    assert [(p["text"].numpy().tolist(), int(p["label"])) for p in pairs] == [([b"a", b"b"], 1), ([b"c", b"d"], 2)]
    assert pairs.cardinality() == 2
    ragged = tf.data.Dataset.from_tensor_slices((tf.ragged.constant([["A", "B"], []]), ["X", "Y"]))
    assert [(a.numpy().tolist(), b.numpy()) for a, b in clean.dataset(ragged.batch(2).unbatch())] == [
        ([b"a", b"b"], b"x"),
        ([], b"y"),
    ]
    assert clean.tensor(tf.zeros([0, 3], tf.string)).shape == (0, 3)


def test_what_is_not_text_becomes_replacement_characters():
    assert Cleaner()("a\ud800b\udc00") == "a\ufffdb\ufffd"
    assert Cleaner()("\ud83d\ude00") == "😀"  # the two halves of one character
    latin = Cleaner().dataset(tf.data.Dataset.from_tensors(b"caf\xe9 \xe4\xbd"))
    assert next(latin.as_numpy_iterator()) == "caf\ufffd \ufffd".encode()
    for step in STEPS:
        step("a\ud800b")


def test_zero_bytes_at_the_end_survive():
    assert Cleaner().tensor(tf.constant([b"a\0", b"\0\0"])).numpy().tolist() == [b"a\0", b"\0\0"]
    assert Cleaner().tensor(tf.constant(b"a\0")).numpy() == b"a\0"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Cleaner("lower"), "steps must be functions of a str; got 'lower'"),
        (lambda: Cleaner(len)("a"), "steps must return a str; got int from <built-in function len>"),
        (lambda: Cleaner()(b"abc"), "texts must be a str or a list of str; got bytes b'abc'"),
        (lambda: Cleaner()(["a", None]), "texts must be a str or a list of str; got NoneType None"),
        (lambda: Cleaner().dataset(tf.data.Dataset.range(3)), "dataset must hold strings; got elements of TensorSpec"),
        (lambda: normalize_unicode("a", form="nfc"), "form must be NFC, NFD, NFKC or NFKD; got 'nfc'"),
        (lambda: mask_pii("a", kinds=("mail",)), r"kinds must be a collection of \('url', .*; got \('mail',\)"),
        (lambda: mask_pii("a", kinds="email"), "kinds must be a collection of .*; got 'email'"),
        (lambda: split_words("a", chinese="words"), "chinese must be 'characters' or 'jieba'; got 'words'"),
        (lambda: stop_words("fr"), r"languages must be of \['en', 'zh'\]; got \('fr',\)"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_jieba_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    cleaning._jieba.cache_clear()
    with pytest.raises(ImportError, match=r"needs jieba: pip install tfllm\[chinese\]"):
        segment("我", chinese="jieba")
    cleaning._jieba.cache_clear()


# ---------------------------------------------------------------- characters


def test_full_width_is_the_offset_of_unicode():
    wide = "".join(chr(code + 0xFEE0) for code in range(0x21, 0x7F)) + "\u3000"
    assert to_half_width(wide) == "".join(map(chr, range(0x21, 0x7F))) + " "
    assert to_half_width("，。！？：；（）") == ",。!?:;()"
    assert normalize_unicode("，。！？：；（）") == ",。!?:;()"
    assert to_half_width("①²ﬁ") == "①²ﬁ"


def test_white_space():
    assert normalize_space("a\u00a0\u2003b\x85c\u2028d\r\ne\rf") == "a b\nc\nd\ne\nf"
    assert normalize_space("\n \n a\n \n\t\n\n b \n ") == "a\n\nb"
    assert normalize_space("a\n\n b", keep_lines=False) == "a b"


def test_punctuation_of_both_languages():
    assert remove_punctuation(string.punctuation) == ""
    assert remove_punctuation("，。！？、；：“”‘’（）《》〈〉【】「」『』…—～·＋＄") == ""
    assert remove_punctuation("don't re-use", keep="'-") == "don't re-use"
    assert remove_punctuation("end.Next", replacement=" ") == "end Next"
    assert remove_punctuation("naïve 你好 Ω 5 ½") == "naïve 你好 Ω 5 ½"


def test_special_characters():
    assert remove_special_characters("a\x00b\x1b[0mc\u200d\u202e\ue000\ufffd") == "ab[0mc"
    assert remove_special_characters("👩🏽‍💻1️⃣🇫🇷❤️™©°∑→■") == "1"
    assert remove_special_characters("é e\u0301 中文，ok! 1\t2\n3") == "é e\u0301 中文，ok! 1\t2\n3"
    assert remove_special_characters("5€ 6$", keep="€") == "5€ 6"
    assert remove_special_characters("می\u200cخواهم", keep="\u200c\u200d") == "می\u200cخواهم"


def test_numbers():
    assert mask_numbers("+1.5, -2 and 1,234.50; 12,34") == "<number>, <number> and <number>; <number>,<number>"
    assert mask_numbers("3-4 GPT2 ٣٤ １２ 三百") == "<number>-<number> GPT<number> <number> <number> 三百"
    assert mask_numbers("2024-01-31 10:00", mask="") == "-- :"
    assert mask_numbers("end of 1999. Next") == "end of <number>. Next"


# ---------------------------------------------------------------- HTML


class _Reference(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.hidden = "", 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        self.text += "" if self.hidden else data


@pytest.mark.parametrize(
    "page",
    [
        "<!DOCTYPE html><html><head><title>T</title><style>p > a {b: c}</style></head><body>x</body></html>",
        '<p class="a>b" id=\'c">\'>one</p><!-- <p>no</p> --><br/>two<BR>three',
        "<script>if (a < b && c > d) document.write('<p>')</script>after",
        "<SCRIPT type='x'>1</ScRiPt >&lt;b&gt; &amp;amp; &nbsp;&#20013;&#x6587; &copy &unknown;",
        "a < b, b > c, 1<2, x <- y, <3, a & b",
        "<table><tr><td>1</td><td>2</td></tr></table>",
        "<ns:tag a=1>x</ns:tag><custom-element>y</custom-element>",
        "plain",
    ],
)
def test_pages_read_as_the_standard_parser_reads_them(page):
    reference = _Reference()
    reference.feed(page)
    reference.close()
    squeezed = [re.sub(r"\s", "", text) for text in (strip_html(page), reference.text)]
    assert squeezed[0] == squeezed[1]


def test_html():
    assert strip_html("<h1>A</h1><p>b <b>o</b>ld</p>") == "\nA\n\nb old\n"
    assert strip_html("<td>1</td><td>2</td>").split() == ["1", "2"]
    assert strip_html("if a < b and c > d: pass") == "if a < b and c > d: pass"
    assert strip_html("x <y then, the <script> tag, <!-- alone") == "x <y then, the  tag, <!-- alone"
    assert strip_html("&lt;script&gt;1&lt;/script&gt;") == "<script>1</script>"
    assert strip_html("&#" + "9" * 5000 + ";") == "&#" + "9" * 5000 + ";"
    assert strip_html("AT&T R&D") == "AT&T R&D"


# ---------------------------------------------------------------- private data

# Numbers that standards and card networks publish for tests; 555 numbers belong to nobody.
PRIVATE = {
    "url": [
        "http://example.com",
        "HTTPS://user:pw@Example.com:8080/a/b.html?q=1&r=%20#x",
        "ftp://ftp.example.org/file",
        "www.example.com/a_(b)",
        "http://[2001:db8::1]/x",
    ],
    "email": ["bob@example.com", "Bob.Lee+tag@mail.example.co.uk", "x_1%a@a-b.cn"],
    "ip": ["127.0.0.1", "255.255.255.255", "fe80::1", "2001:db8:0:0:8:800:200c:417a", "::ffff:192.0.2.1"],
    "id": ["123-45-6789", "11010519491231002X", "11010519491231002x", "440524188001010014"],
    "card": [
        "4111111111111111",
        "4111 1111 1111 1111",
        "5555-5555-5555-4444",
        "2223003122003222",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "3530111333300000",
        "30569309025904",
        "6200000000000005",
    ],
    "phone": [
        "13800138000",
        "138 0013 8000",
        "138-0013-8000",
        "+86 13800138000",
        "+86-138-0013-8000",
        "8613800138000",
        "010-62345678",
        "(021) 62345678",
        "+1 (555) 010-1234",
        "+15550101234",
        "555-010-1234",
        "(555) 010-1234",
        "1-555-010-1234",
        "555.010.1234",
        "+44 20 7946 0958",
        "+33 1 09 75 83 51",
        "+49 (0)30 901820",
    ],
}
NEAR_MISSES = [
    "1.2.3",
    "v1.2.3.4",
    "1.2.3.4.5",
    "256.1.1.1",
    "2024-01-31",
    "2024-01-31T12:30:45.123Z",
    "20240131123045",
    "12:30:45",
    "$1,299.99",
    "1234567890",
    "1700000000",
    "1700000000000",
    "4111111111111112",
    "4111 1111 1111 1112",
    "1234567812345670",  # passes Luhn, but no issuer begins with 1
    "41111111111111111111111",
    "0.4111111111111111",
    "11010519491231002",
    "110105194912310021",  # the check digit
    "11010519491331002X",  # the 13th month
    "000-12-3456",
    "666-12-3456",
    "900-12-3456",
    "123-00-4567",
    "123-45-0000",
    "123-45-67890",
    "12800138000",
    "138001380001",
    "+1.23456789012",
    "+5",
    "978-0-306-40615-7",
    "@handle",
    "user@localhost",
    "a@b",
    "3@4.5",
    "std::vector",
    "a::b",
    "::",
    "00:1A:2B:3C:4D:5E",
    "http://",
    "www",
    "example.com",
    "3.14159265358979",
    "deadbeef13800138000",
    "x4111111111111111",
]


@pytest.mark.parametrize("kind", PRIVATE)
def test_private_data_is_masked_wherever_it_stands(kind):
    for found in PRIVATE[kind]:
        for text in ("{}", "see {}, please", "({})", "联系{}，谢谢", "：{}。", '"{}"', "{}\n{}", "{}|{}", "end {}."):
            masked = mask_pii(text.replace("{}", found))
            assert masked == text.replace("{}", f"<{kind}>"), found
            assert mask_pii(masked) == masked


def test_only_the_kinds_asked_for_are_masked():
    for kind, examples in PRIVATE.items():
        for found in examples:
            assert mask_pii(found, kinds=(kind,)) == f"<{kind}>"
            assert mask_pii(found, kinds=()) == found


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_near_misses_stay(text):
    for sentence in (text, f"see {text}, please", f"见{text}。"):
        assert mask_pii(sentence) == sentence


def test_every_wrong_digit_of_a_checked_number_saves_it():
    for number, kind in (("4111111111111111", "card"), ("11010519491231002X", "id")):
        for place in range(len(number)):
            for digit in set(string.digits) - {number[place]}:
                assert mask_pii(number[:place] + digit + number[place + 1 :], kinds=(kind,)) != f"<{kind}>"


def test_lists_without_blanks_leak_nothing():
    assert mask_pii("13800138000,13900139000") == "<phone>,<phone>"
    assert mask_pii("a@b.cn,c@d.cn;10.0.0.1,10.0.0.2") == "<email>,<email>;<ip>,<ip>"
    assert mask_pii("ip:fe80::1 ip:10.0.0.1") == "ip:<ip> ip:<ip>"
    assert mask_pii("call +1 555 010 1234 2 times") == "call <phone> 2 times"
    assert mask_pii("4111 1111 1111 1111 12/27") == "<card> 12/27"


def test_full_width_digits_need_normalisation_first():
    assert Cleaner(normalize_unicode, mask_pii)("１３８００１３８０００") == "<phone>"


def test_links_end_with_the_sentence():
    assert mask_urls("(http://a.com/b_(c)), http://a.com?! 'www.a.cn'") == "(<url>), <url>?! '<url>'"
    assert mask_urls("见http://a.cn/路径") == "见<url>路径"
    assert mask_urls("a http://b.c d", mask="") == "a  d"


# ---------------------------------------------------------------- words


def test_words():
    assert split_words("I can’t pay $3.50 (1,000 %)!") == [
        "I",
        "can’t",
        "pay",
        "$",
        "3.50",
        "(",
        "1,000",
        "%",
        ")",
        "!",
    ]
    assert split_words("<url>x <b>") == ["<url>", "x", "<", "b", ">"]
    assert split_words("snake_case e-mail -5 a--b") == ["snake_case", "e-mail", "-", "5", "a", "-", "-", "b"]
    decomposed = unicodedata.normalize("NFD", "café हिन्दी")
    assert split_words(decomposed) == decomposed.split()


def test_chinese_by_characters_and_by_jieba():
    assert split_words("我来到北京清华大学，GPT-4！") == [*"我来到北京清华大学", "，", "GPT-4", "！"]
    assert split_words("我来到北京清华大学，GPT-4！", chinese="jieba") == [
        "我", "来到", "北京", "清华大学", "，", "GPT-4", "！",
    ]  # fmt: skip
    assert split_words("𠮷野家 々〇", chinese="characters") == ["𠮷", "野", "家", "々", "〇"]
    text = "我爱北京，天安门。" * 50
    assert "".join(split_words(text, chinese="jieba")) == "".join(split_words(text)) == text


def test_segments_keep_their_lines():
    assert segment("我们\n\na,b \n") == "我 们\n\na , b\n"


def test_stop_words():
    english, chinese = stop_words("en"), stop_words("zh")
    assert {"the", "of", "don't", "i"} <= english and {"的", "了", "我们"} <= chinese
    assert english | chinese == stop_words()
    assert all(word == word.strip().lower() for word in english | chinese)
    assert not any(re.search("[a-z]", word) for word in chinese)
    assert remove_stop_words("THE end; it’s\n\n  indented  line\nof the") == "end;\n\n  indented  line\n"
    assert remove_stop_words("the cat", words={"cat"}) == "the"
    assert remove_stop_words("the_cat theory I-beam") == "the_cat theory -beam"


def test_cut_first_then_drop_keeps_words_that_hold_a_stop_word():
    assert remove_stop_words("我的目的") == "我的目的"
    assert remove_stop_words(segment("我的目的是明确的", chinese="jieba")) == "目的 明确"


# ---------------------------------------------------------------- lines


def test_lines_that_are_there_twice():
    assert remove_duplicate_lines("a\nb\na\n\n A \n\nb.\n") == "a\nb\n\n\nb.\n"
    assert remove_duplicate_lines("版权所有\n正文\n版权所有") == "版权所有\n正文"


def test_main_names_are_reached_through_the_folder():
    assert tfllm.text.cleaning is cleaning
    assert tfllm.text.Cleaner is Cleaner
