"""Cleaning and segmentation of English and Chinese text: functions from a string to a string, and a `Cleaner` that joins them.

Every step is one pass of linear time, whatever the text. The steps know the masks of `MASKS`, such as `<email>`, and leave
them whole, so their order is free. Left out: duplicates (`duplicates.py`), spelling, stems, and names of people.
"""

import dataclasses
import datetime
import functools
import html
import ipaddress
import json
import pathlib
import re
import string
import unicodedata
import warnings

import numpy as np
import tensorflow as tf

PII_KINDS = ("url", "email", "ip", "id", "card", "phone")
MASKS = (*(f"<{kind}>" for kind in PII_KINDS), "<number>")
_MASK = "<(?:" + "|".join(mask[1:-1] for mask in MASKS) + ")>"


@dataclasses.dataclass(frozen=True, init=False)
class Cleaner:
    """Applies steps one after another, to strings, to lists of them, and to a `tf.data` pipeline alike.

    Strings that hold half a surrogate pair, which no file can hold, and bytes that are not UTF-8 get U+FFFD in the place.
    A text may become empty, but never disappears, so labels beside it stay in place.

    Args:
        *steps: functions of a str that return a str; `functools.partial` sets options.

    Raises:
        ValueError: when a step is no function.

    Example:
        >>> clean = Cleaner(strip_html, mask_pii, normalize_unicode, lower_case, remove_punctuation, normalize_space)
        >>> clean("<p>Write to Bob.Lee@example.com,&nbsp;or call 13800138000！</p>")
        'write to <email> or call <phone>'
        >>> clean(["（你好）", ""])
        ['你好', '']
    """

    steps: tuple

    def __init__(self, *steps):
        for step in steps:
            if not callable(step):
                raise ValueError(f"steps must be functions of a str; got {step!r}")
        object.__setattr__(self, "steps", steps)

    def __call__(self, texts):
        """Cleans a text or a list of texts.

        Args:
            texts: str, or a list or tuple of str.

        Returns:
            str, or a list of as many str.

        Raises:
            ValueError: when `texts` is neither, such as bytes, or a step returns no str.
        """
        if isinstance(texts, str):
            return self._clean(texts)
        for text in texts if isinstance(texts, list | tuple) else [texts]:
            if not isinstance(text, str):
                raise ValueError(f"texts must be a str or a list of str; got {type(text).__name__} {text!r:.50}")
        return [self._clean(text) for text in texts]

    def tensor(self, texts):
        """Cleans a string tensor; in a graph the steps run as Python, which an export cannot carry.

        Args:
            texts: string tensor (dense or ragged) of any shape.

        Returns:
            string tensor of the same shape, UTF-8.
        """
        if isinstance(texts, tf.RaggedTensor):
            return texts.with_flat_values(self.tensor(texts.flat_values))
        texts = tf.convert_to_tensor(texts, tf.string)
        cleaned = tf.numpy_function(self._clean_bytes, [texts], tf.string, stateful=False)
        return tf.ensure_shape(cleaned, texts.shape)

    def dataset(self, dataset):
        """Cleans every string of a pipeline; ids, labels and other numbers pass.

        Args:
            dataset: `tf.data.Dataset` whose elements hold string tensors, in tuples or dictionaries as they like.

        Returns:
            `tf.data.Dataset` of the same structure, order and cardinality.

        Raises:
            ValueError: when the elements hold no strings.

        Example:
            >>> dataset = tf.data.Dataset.from_tensor_slices((["A  B", "C"], [0, 1]))
            >>> for text, label in Cleaner(lower_case, normalize_space).dataset(dataset):
            ...     print(text.numpy(), label.numpy())
            b'a b' 0
            b'c' 1
        """
        spec = dataset.element_spec
        if not any(part.dtype == tf.string for part in tf.nest.flatten(spec)):
            raise ValueError(f"dataset must hold strings; got elements of {spec}")

        def clean(*element):
            element = element if isinstance(spec, tuple) else element[0]
            return tf.nest.map_structure(lambda part: self.tensor(part) if part.dtype == tf.string else part, element)

        return dataset.map(clean, num_parallel_calls=tf.data.AUTOTUNE)

    def _clean(self, text):
        text = _join_surrogates(text)
        for step in self.steps:
            text = step(text)
            if not isinstance(text, str):
                raise ValueError(f"steps must return a str; got {type(text).__name__} from {step!r}")
        return text

    def _clean_bytes(self, texts):
        texts = np.asarray(texts, object)
        cleaned = [self._clean(text.decode("utf-8", "replace")).encode() for text in texts.reshape(-1)]
        result = np.empty(len(cleaned), object)  # an array of dtype S would lose zero bytes at the end
        result[:] = cleaned
        return result.reshape(texts.shape)


def _join_surrogates(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


# ---------------------------------------------------------------- characters


def lower_case(text, *, casefold=False):
    """Makes letters small.

    Args:
        text: str.
        casefold: bool, whether to remove every difference of case for comparisons, such as `ß` to `ss`.

    Returns:
        str.

    Example:
        >>> lower_case("Große Ähnlichkeit", casefold=True)
        'grosse ähnlichkeit'
    """
    return text.casefold() if casefold else text.lower()


def normalize_unicode(text, *, form="NFKC"):
    """Writes equal characters equally.

    Args:
        text: str.
        form: str, `"NFC"` (one character for letter and accent), `"NFD"`, or `"NFKC"` and `"NFKD"`, which also turn
            full-width signs, ligatures and the like into plain ones.

    Returns:
        str.

    Raises:
        ValueError: when `form` is another one.

    Source: Unicode Standard Annex 15.

    Example:
        >>> normalize_unicode("ＧＰＴ－２，ﬁne ①")
        'GPT-2,fine 1'
    """
    if form not in ("NFC", "NFD", "NFKC", "NFKD"):
        raise ValueError(f"form must be NFC, NFD, NFKC or NFKD; got {form!r}")
    return unicodedata.normalize(form, text)


_HALF_WIDTH = {0x3000: " ", **{0xFF01 + i: chr(0x21 + i) for i in range(94)}}


def to_half_width(text):
    """Turns full-width letters, digits, signs and blanks into ASCII, and nothing else (NFKC does more).

    Args:
        text: str.

    Returns:
        str of the same length.

    Example:
        >>> to_half_width("ＡＢ１２，　①。")
        'AB12, ①。'
    """
    return text.translate(_HALF_WIDTH)


def normalize_space(text, *, keep_lines=True):
    """Leaves single blanks between words, none at the ends of lines, and at most one empty line in a row.

    Args:
        text: str.
        keep_lines: bool; False makes one line of all.

    Returns:
        str, without white space at its ends; line ends of every kind are `\\n`.

    Example:
        >>> normalize_space(" a \\t b\\r\\n \\n\\n\\n c　d\\n")
        'a b\\n\\nc d'
    """
    if not keep_lines:
        return " ".join(text.split())
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return "\n".join(line for i, line in enumerate(lines) if line or (i and lines[i - 1])).strip("\n")


def remove_punctuation(text, *, keep="", replacement=""):
    """Removes punctuation of every language (Unicode category P) and all signs of ASCII, such as `+`, in both widths.

    Args:
        text: str.
        keep: str, the characters to leave, such as `"'-"`.
        replacement: str, what stands in the place of each; `" "` keeps the words of `"end.Next"` apart.

    Returns:
        str; masks such as `<email>` stay.

    Example:
        >>> remove_punctuation("“Well,” she said: 你好，《世界》！ <email>")
        'Well she said 你好世界 <email>'
    """
    return _outside_masks(text, _table("punctuation", keep, replacement))


def remove_special_characters(text, *, keep="", replacement=""):
    """Removes symbols, emoji and what cannot be seen: controls, formats, private and unassigned characters, U+FFFD.

    Letters, marks, digits, punctuation, blanks, tabs and line ends stay. Persian and Indic text needs
    `keep="\\u200c\\u200d"`, the joiners of letters.

    Args:
        text: str.
        keep: str, the characters to leave.
        replacement: str, what stands in the place of each.

    Returns:
        str; masks such as `<email>` stay.

    Example:
        >>> remove_special_characters("5 € → ok 👍🏽\\u200b\\ufeff <url>, 好★")
        '5   ok  <url>, 好'
    """
    return _outside_masks(text, _table("special", keep, replacement))


class _Table(dict):
    """A table for `str.translate` that judges a character when it first meets it."""

    def __init__(self, removes, replacement):
        super().__init__()
        self.removes, self.replacement = removes, replacement

    def __missing__(self, code):
        self[code] = self.replacement if self.removes(chr(code)) else chr(code)
        return self[code]


@functools.lru_cache(maxsize=32)
def _table(kind, keep, replacement):
    removes = {"punctuation": _is_punctuation, "special": _is_special}[kind]
    return _Table(lambda character: character not in keep and removes(character), replacement)


def _is_punctuation(character):
    return character.translate(_HALF_WIDTH) in string.punctuation or unicodedata.category(character)[0] == "P"


def _is_special(character):
    of_emoji = character == "\u20e3" or "\ufe00" <= character <= "\ufe0f"  # the marks that make keycaps and pictures
    return character not in "\n\t\r" and (of_emoji or unicodedata.category(character)[0] in "SC")


def _outside_masks(text, table):
    parts = re.split(f"({_MASK})", text)
    return "".join(part if i % 2 else part.translate(table) for i, part in enumerate(parts))


_NUMBER = re.compile(r"(?:(?<![\w)])[+-])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+)?")


def mask_numbers(text, *, mask="<number>"):
    """Replaces numbers in digits, with their sign, groups of thousands, decimals and exponent.

    Digits of every script count, those inside words too (`"GPT2"`); numbers in words or Chinese numerals do not.

    Args:
        text: str.
        mask: str, what stands in the place of a number; `""` removes it.

    Returns:
        str.

    Example:
        >>> mask_numbers("-3.5 of 1,234,567 or 6e-23, 共12人, 3-4")
        '<number> of <number> or <number>, 共<number>人, <number>-<number>'
    """
    return _NUMBER.sub(lambda _: mask, text)


# ---------------------------------------------------------------- HTML

# A tag may hold ">" inside quotes. Tags that are never closed cost no more than a few passes: of the three states that a
# scan can be in (outside quotes, inside either kind), a quote swaps two, and a scan outside quotes ends at the next "<".
_TAG = re.compile(
    r"""<!--|<[!?][^<>]*>|<(/?)([a-zA-Z][^\s/<>"']*)(?![^\s/<>"'])[^<>"']*(?:(?:"[^"]*"|'[^']*')[^<>"']*)*>""",
)
_CLOSING = {name: re.compile(rf"</{name}\b[^<>]*>", re.IGNORECASE) for name in ("script", "style")}
_CLOSING["<!--"] = re.compile("-->")
_NEW_LINE = re.compile(
    "address|article|aside|blockquote|body|br|caption|center|dd|div|dl|dt|fieldset|figcaption|figure|footer|form|h[1-6]"
    "|head|header|hr|li|main|nav|ol|option|p|pre|section|select|table|tbody|tfoot|thead|title|tr|ul"
)
_HUGE_REFERENCE = re.compile(r"&#(?=[0-9]{8}|[xX][0-9a-fA-F]{8})")


def strip_html(text):
    """Leaves the text of an HTML page: no tags, comments, scripts or styles, and `&amp;` as `&`.

    What a browser would show as text stays text, such as `a < b`; so does a tag, comment or script that never ends. A
    paragraph, a line break and the like become a line end, a table cell a blank. Python's own `html.parser` is not used,
    because it needs quadratic time for hostile pages and its versions differ in what they do with an unfinished tag.

    Args:
        text: str.

    Returns:
        str; masks such as `<email>` stay.

    Example:
        >>> strip_html("<p title='>'>1 &lt; <b>2</b> < 3</p><script>if (a<b) x()</script>")
        '\\n1 < 2 < 3\\n'
    """
    pieces, at, shown, endless = [], 0, 0, set()
    while match := _TAG.search(text, at):
        at, name = match.end(), (match[2] or match[0]).lower()
        closing = None
        if name in _CLOSING and not match[1] and name not in endless:
            closing = _CLOSING[name].search(text, at)
            if closing is None:
                endless.add(name)  # looked for once, so that many of them cost no more
        if match[0] in MASKS or (name == "<!--" and closing is None):
            continue
        space = "\n" if _NEW_LINE.fullmatch(name) else " " if name in ("td", "th") else ""
        pieces += [_unescape(text[shown : match.start()]), space]
        at = shown = closing.end() if closing else at
    return "".join([*pieces, _unescape(text[shown:])])


def _unescape(text):
    return html.unescape(_HUGE_REFERENCE.sub("&amp;#", text))  # Python refuses to read thousands of digits


# ---------------------------------------------------------------- private data


def mask_urls(text, *, mask="<url>"):
    """Replaces addresses that begin with `http://`, `https://`, `ftp://` or `www.`.

    An address ends before a blank, a character outside ASCII, and the punctuation of the sentence around it.

    Args:
        text: str.
        mask: str, what stands in the place of an address; `""` removes it.

    Returns:
        str.

    Example:
        >>> mask_urls("见https://a.cn/b?c=1。(or www.a.com/x_(y))")
        '见<url>。(or <url>)'
    """
    return _URL.sub(lambda match: mask + match[0][len(_trim_url(match[0])) :], text)


def mask_pii(text, *, kinds=PII_KINDS):
    """Replaces what tells who or where somebody is by `<url>`, `<email>`, `<ip>`, `<id>`, `<card>` and `<phone>`.

    - `url`: as `mask_urls`. `email`: ASCII addresses. `ip`: IPv4, and IPv6 that holds a decimal digit.
    - `id`: Chinese resident numbers of 18 characters with a true birthday and check digit (GB 11643, ISO 7064 MOD 11-2),
      and US social security numbers written `123-45-6789`, in ranges that can be issued.
    - `card`: numbers of 13 to 19 digits, in one or in the usual groups, that begin as one of the large issuers' and pass
      Luhn's check (ISO/IEC 7812).
    - `phone`: Chinese mobile and land lines, North American numbers, and any number that begins with `+` and a country.

    Full-width digits are found after `normalize_unicode` or `to_half_width`. It knows forms, not meanings: names and
    street addresses stay, and a version of four numbers is an address.

    Args:
        text: str.
        kinds: collection of str, those of `PII_KINDS` to mask.

    Returns:
        str.

    Raises:
        ValueError: when a kind is unknown.

    Example:
        >>> mask_pii("4111 1111 1111 1111, 4111 1111 1111 1112, 127.0.0.1, 1.2.3, 2024-01-31")
        '<card>, 4111 1111 1111 1112, <ip>, 1.2.3, 2024-01-31'
    """
    if isinstance(kinds, str) or not set(kinds) <= set(PII_KINDS):
        raise ValueError(f"kinds must be a collection of {PII_KINDS}; got {kinds!r}")
    for kind in PII_KINDS:  # in this order: a link may hold an address, and an id number may look like a card
        if kind == "url" and kind in kinds:
            text = mask_urls(text)
        elif kind in kinds and _HINTS[kind].search(text):
            for pattern, is_true in _PII[kind]:
                text = pattern.sub(lambda match, k=kind, t=is_true: f"<{k}>" if t(match[0]) else match[0], text)
    return text


def _trim_url(url):
    end, unopened = len(url), url.count(")") - url.count("(")
    while url[end - 1] in ".,;:!?'*_~" or (url[end - 1] == ")" and unopened > 0):
        end, unopened = end - 1, unopened - (url[end - 1] == ")")
    return url[:end]


def _always(_):
    return True


def _is_ipv4(found):
    return all(int(part) < 256 for part in found.split("."))


def _is_ipv6(found):
    try:
        ipaddress.IPv6Address(found)
    except ValueError:
        return False
    return any(character.isdigit() for character in found)  # `a::b` is rather a name in a program


def _is_resident_id(found):
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    rest = sum(weight * int(digit) for weight, digit in zip(weights, found[:17], strict=True)) % 11
    try:
        datetime.date(int(found[6:10]), int(found[10:12]), int(found[12:14]))
    except ValueError:
        return False
    return "10X98765432"[rest] == found[17].upper()


def _is_card(found):
    digits = re.sub("[ -]", "", found)
    doubled = [int(digit) * (1 + i % 2) for i, digit in enumerate(reversed(digits))]
    return bool(_ISSUER.fullmatch(digits)) and sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _is_international(found):
    return not re.fullmatch(r"\+[0-9]+\.[0-9]+", found)  # a decimal number with its sign


# Visa; Mastercard; American Express; Diners; JCB; Maestro, Discover and UnionPay.
_ISSUER = re.compile(
    "4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}"
    "|3[47][0-9]{13}|3(?:0[0-5]|[689][0-9])[0-9]{11}|35[0-9]{14}|(?:50|5[6-9]|6[0-9])[0-9]{14,17}"
)
# What a text must hold to be read in full; most texts do not.
_LONG_NUMBER = re.compile(r"[0-9](?:[ ().-]{0,3}[0-9]){6}")
_HINTS = {
    "email": re.compile("@"),
    "ip": re.compile(r"[0-9]\.|[0-9A-Fa-f]:[0-9A-Fa-f:]|::"),
    **dict.fromkeys(("id", "card", "phone"), _LONG_NUMBER),
}
# Patterns begin where no letter or digit stands before, so a run is read once: without it, a long run costs its square.
# Letters mean ASCII here, because Chinese text leaves no blank around numbers.
_ALONE, _ENDS = r"(?<![0-9A-Za-z])(?<![0-9]\.)", r"(?![0-9A-Za-z])(?!\.[0-9])"
_URL = re.compile(
    r"(?<![0-9A-Za-z])(?:(?:https?|ftp)://|www\.)[0-9A-Za-z\[][0-9A-Za-z\-._~:/?#\[\]@!$&'()*+,;=%]*", re.IGNORECASE
)
_PII = {
    "email": [
        (
            re.compile(r"(?<![0-9A-Za-z._%+-])[0-9A-Za-z._%+-]+@(?:[0-9A-Za-z-]+\.)+[A-Za-z]{2,}(?![0-9A-Za-z-])"),
            _always,
        )
    ],
    "ip": [
        (
            re.compile(
                r"(?<![0-9A-Za-z.])(?<![0-9A-Fa-f:]:)(?=[0-9A-Fa-f]{1,4}:|::)[0-9A-Fa-f:.]{2,45}(?<![:.])"
                r"(?![0-9A-Za-z]|[:.][0-9A-Fa-f:])"
            ),
            _is_ipv6,
        ),
        (re.compile(r"(?<![0-9A-Za-z.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z]|\.[0-9])"), _is_ipv4),
    ],
    "id": [
        (re.compile(rf"{_ALONE}[1-9][0-9]{{16}}[0-9Xx]{_ENDS}"), _is_resident_id),
        (
            re.compile(rf"{_ALONE}(?<!-)(?!000|666|9)[0-9]{{3}}-(?!00)[0-9]{{2}}-(?!0000)[0-9]{{4}}(?!-){_ENDS}"),
            _always,
        ),
    ],
    "card": [
        (
            re.compile(
                rf"{_ALONE}(?:[0-9]{{13,19}}|[0-9]{{4}}([ -])[0-9]{{4}}\1[0-9]{{4}}\1[0-9]{{4}}(?:\1[0-9]{{3}})?"
                rf"|[0-9]{{4}}([ -])[0-9]{{6}}\2[0-9]{{4,5}}|[0-9]{{6}}([ -])[0-9]{{13}}){_ENDS}"
            ),
            _is_card,
        )
    ],
    "phone": [
        (re.compile(rf"(?:{_ALONE}(?:00)?|\+)86[ -]?1[3-9][0-9]([ -]?)[0-9]{{4}}\1[0-9]{{4}}{_ENDS}"), _always),
        (
            re.compile(rf"(?<![0-9A-Za-z])\+1[ .-]?\(?[2-9][0-9]{{2}}\)?[ .-]?[0-9]{{3}}[ .-]?[0-9]{{4}}{_ENDS}"),
            _always,
        ),
        (re.compile(rf"(?<![0-9A-Za-z])\+[1-9](?:[ ().-]{{0,2}}[0-9]){{6,14}}{_ENDS}"), _is_international),
        (re.compile(rf"{_ALONE}1[3-9][0-9]([ -]?)[0-9]{{4}}\1[0-9]{{4}}{_ENDS}"), _always),
        (re.compile(rf"{_ALONE}(?:\(0[1-9][0-9]{{1,2}}\) ?|0[1-9][0-9]{{1,2}}-)[0-9]{{7,8}}{_ENDS}"), _always),
        (re.compile(rf"{_ALONE}(?<!-)(?:1[ .-])?\([2-9][0-9]{{2}}\) ?[0-9]{{3}}[ .-][0-9]{{4}}(?!-){_ENDS}"), _always),
        (re.compile(rf"{_ALONE}(?<!-)(?:1[.-])?[2-9][0-9]{{2}}([.-])[0-9]{{3}}\1[0-9]{{4}}(?!-){_ENDS}"), _always),
    ],
}


# ---------------------------------------------------------------- words

# Chinese characters: the blocks of Unicode's CJK ideographs, with the signs 々 and 〇.
_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_IS_HAN = re.compile(f"[{_HAN}]")


def split_words(text, *, chinese="characters"):
    """Cuts a text into words, numbers and punctuation marks.

    Words keep their apostrophes and hyphens, numbers their points; every mark is a word of its own and masks such as
    `<email>` stay whole. Other languages without blanks (Japanese kana, Thai) keep their runs of letters.

    Args:
        text: str.
        chinese: `"characters"`, one word a Chinese character, or `"jieba"`, the words that the package `jieba` finds
            (`pip install tfllm[chinese]`).

    Returns:
        list of str, without white space.

    Raises:
        ValueError: when `chinese` is another one.
        ImportError: when jieba is not installed.

    Example:
        >>> split_words("It's a state-of-the-art 3.5% gain, 我爱GPT。")
        ["It's", 'a', 'state-of-the-art', '3.5', '%', 'gain', ',', '我', '爱', 'GPT', '。']
    """
    if chinese not in ("characters", "jieba"):
        raise ValueError(f"chinese must be 'characters' or 'jieba'; got {chinese!r}")
    cut = list if chinese == "characters" else _jieba().lcut
    words = []
    for word in _word_pattern().findall(text):
        if word[0] >= "\u3005" and _IS_HAN.match(word):  # the first Chinese character; most words need no pattern
            words += cut(word)
        else:
            words.append(word)
    return words


def segment(text, *, chinese="characters"):
    """Writes a blank between the words of `split_words`, line by line: the step before a word tokenizer.

    Args:
        text: str.
        chinese: as in `split_words`.

    Returns:
        str with as many lines.

    Example:
        >>> segment("我爱GPT。\\nWell, 3.5")
        '我 爱 GPT 。\\nWell , 3.5'
    """
    return "\n".join(" ".join(split_words(line, chinese=chinese)) for line in text.split("\n"))


@functools.cache
def _word_pattern():
    # Python's \w leaves out marks, which would cut decomposed accents and Indic vowels off their letters.
    marks = "".join(re.escape(chr(i)) for i in range(0x300, 0x10000) if unicodedata.category(chr(i))[0] == "M")
    word = rf"[^\W{_HAN}]+(?:[{marks}]+[^\W{_HAN}]*)*"
    # Chinese comes in runs of at most 1000 characters, because jieba needs time in the square of them.
    return re.compile(rf"{_MASK}|[{_HAN}]{{1,1000}}|{word}(?:['’-]{word}|(?<=\d)[.,](?=\d){word})*|[^\w\s]")


@functools.cache
def _jieba():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its source has invalid escapes and asks for pkg_resources
            import jieba
    except ImportError as error:
        raise ImportError("chinese='jieba' needs jieba: pip install tfllm[chinese]") from error
    tokenizer = jieba.Tokenizer()
    # Its `initialize` would print, and would unmarshal a file in the temporary folder, where anybody may write.
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer


@functools.cache
def stop_words(*languages):
    """Returns the words that say little alone, such as `the` and `的`.

    The lists are the project's own and small: articles, pronouns, prepositions, conjunctions, auxiliaries, particles.

    Args:
        *languages: str, `"en"` and `"zh"`; none means both.

    Returns:
        frozenset of str, in lower case, with `'` as apostrophe.

    Raises:
        ValueError: when a language is unknown.

    Example:
        >>> "the" in stop_words("en"), "的" in stop_words("en"), "的" in stop_words()
        (True, False, True)
    """
    lists = json.loads(pathlib.Path(__file__).with_name("stop_words.json").read_text(encoding="utf-8"))
    if not set(languages) <= set(lists):
        raise ValueError(f"languages must be of {sorted(lists)}; got {languages}")
    return frozenset(word for language in languages or lists for word in lists[language].split())


def remove_stop_words(text, *, words=None):
    """Removes words that say little; a line that loses one has single blanks afterwards.

    Words are what stands between blanks and punctuation, so Chinese is to be cut first, with
    `segment(text, chinese="jieba")`: characters alone would lose the 的 of 目的.

    Args:
        text: str.
        words: collection of str in lower case; None means `stop_words()`.

    Returns:
        str.

    Example:
        >>> remove_stop_words("The cat, and the dog, don't sleep.")
        'cat, dog, sleep.'
        >>> remove_stop_words("我 的 目的 是 学习")
        '目的 学习'
    """
    words = stop_words() if words is None else words

    def kept(match):
        return "" if match[0].replace("’", "'").lower() in words else match[0]

    lines = []
    for line in text.split("\n"):
        rest = re.sub(r"\w+(?:['’]\w+)*", kept, line)
        lines.append(line if rest == line else " ".join(rest.split()))
    return "\n".join(lines)


# ---------------------------------------------------------------- lines


def comparable(text):
    """Returns str, the form in which two texts count as the same: NFKC, without case, single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def remove_duplicate_lines(text):
    """Keeps the first of the lines that are the same but for case, white space and full-width forms.

    Args:
        text: str.

    Returns:
        str; empty lines stay.

    Example:
        >>> remove_duplicate_lines("Menu\\nnews\\n\\nMENU \\nｍｅｎｕ\\nend")
        'Menu\\nnews\\n\\nend'
    """
    seen, lines = set(), []
    for line in text.split("\n"):
        key = comparable(line)
        if not key or key not in seen:
            lines.append(line)
        seen.add(key)
    return "\n".join(lines)
