"""Whether an answer refuses: clause by clause, by the words that models refuse with."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hf_regioncap.answer_text import clean, named_number
from hf_regioncap.loose_json import unescape
from hf_regioncap.no_picture import is_guard, tells_of_none

# Regular expressions by language, for the beginning of a clause.
_SORRY = {
    "en": r"i(?:'m| am) (?:\w+ )?sorry|i apologi[sz]e|my apologies",
    "de": r"es tut mir (?:\w+ )?leid",
    "fr": r"je suis (?:\w+ )?désolée?",
    "es": r"lo siento(?: mucho)?|lo lamento",
    "zh": r"(?:很|非常|实在|十分)?(?:抱歉|对不起|對不起)",
    "ja": r"(?:大変|誠に)?申し訳(?:あり|ござい)ません(?:が)?",
}
_PREAMBLE = {
    "en": r"sorry|(?:hello|hi|sure|certainly)\b|of course|thank you(?: for \w+ \w+)?"
    r"|(?:(?:api|proxy|server|upstream|internal|fatal) )?(?:error|exception)(?= *$)|about that"
    r"|for (?:the |any )?(?:inconvenience|confusion|misunderstanding)"
    r"|it (?:seems|appears|looks like)(?: that)?|i'm afraid(?: that)?|at this time"
    r"|unfortunately|regrettably|however|but|also"
    r"|as an? (?:[\w-]+ ){0,3}(?:ai|model|assistant)\b[^,.\n]{0,60}"
    r"|i(?:'m| am) (?:just )?an ai\b[^,.\n]{0,40}?(?=,| and\b|$)(?: and\b)?"
    r"|(?:for|due to|to protect) (?:\w+[ ']){0,4}(?:privacy|safety|ethical|security|policy)"
    r"(?: \w+){0,3}",
    "de": r"hallo|guten tag|tut mir (?:\w+ )?leid|entschuldigung|leider|jedoch|aber"
    r"|als (?:\w+[ -])?ki\b[^,\n]{0,30}?(?=,| kann)",
    "fr": r"bonjour|désolée?|pardon|malheureusement|mais|en tant qu[e'][^,\n]{0,60}",
    "es": r"hola|lamentablemente|desafortunadamente|pero"
    r"|como (?:modelo|ia|asistente|una? ia)[^,\n]{0,60}",
    "zh": r"您好|你好|不好意思|遗憾的是|但是?"
    r"|作为(?:一个|一名)?(?:ai|人工智能|语言模型|大模型)[^，,\n]{0,20}",
    "ja": r"すみません(?:が)?|恐れ入りますが|残念ながら|私は|aiとして",
}
_HELPING = (
    r"(?:assist|help(?= *$| (?:with|you|identify|describ|in)\b)|identif|provid|describ|comply"
    r"|fulfil|process|analy[sz]|recogni[sz]|determine|answer|do (?:that|this|so)\b|generat|discuss"
    r"|access|engage|complete|continue|offer|giv(?:e|ing)|shar(?:e|ing)|respond|caption|comment"
    r"|speculat|confirm|interpret|detect|support|make (?:out|that|any)|tell (?:who|what|you)"
    r"|feel comfortable|have (?:the ability|access|enough|permission)"
    r"|(?:see|view|read|find) (?:(?:the|any|an?|this|that|what|enough|your) )?"
    r"(?:image|picture|photo|region|box|content|mark|detail|what|anything|<))"
)
_WAS = (
    r"(?:was|is|has|have|were|could|did|may|might|appears?|seems?|violat\w+|triggered|contains?"
    r"|cannot"
    r"|can't|got)\b"
)
_REFUSES = {
    "en": r"i ?(?:(?:really|simply|currently|also|just) )?(?:cannot|can not|can't|cant|could not"
    r"|couldn't|won't|will not|do not|don't|(?:'m|am) (?:currently )?(?:unable|not (?:able|allowed"
    r"|permitted|comfortable|going|in a position))(?: to)?) (?:be able to |\w+ly )?"
    + _HELPING
    + r"|(?:there(?:'s| is) )?no (?:image|picture|photo) (?:(?:was|is|has been) )?"
    r"(?:attached|provided|included|uploaded|to describe)"
    r"|i (?:must|have to|need to|will have to|respectfully) (?:\w+ly )?"
    r"(?:decline|refuse|refrain)|i decline to|i'd rather not"
    rf"|(?:(?:i'm |am )?(?:unable|not able) to|can(?:not|'t)(?: be)?) {_HELPING}"
    rf"|(?:this|your|the) (?:request|prompt|query|response|input) {_WAS}.{{0,60}}"
    r"(?:violat|polic|flag|filter|block|safety|reject)"
    rf"|(?:this|your|the) content {_WAS}.{{0,60}}(?:violat|flagged|polic|content filter)",
    "de": r"(?=.{0,50}\bich\b)(?:(?:ich|dabei|damit|dazu|das|hierbei|diese\w*) ){0,2}"
    r"(?:kann|darf|könnte|bin)\b.{0,80}\b(?:nicht|keine?n?)\b.{0,60}"
    r"\b(?:\w*helfen|identifizieren|beschreiben|erkennen|sagen|beantworten|unterstützen"
    r"|bereitstellen|angeben|bestimmen|machen|lage)\b",
    "fr": r"je n(?:e |')(?:peux|suis|pourrai|puis)\b.{0,40}(?:aider|identifier|décrire|répondre"
    r"|fournir|assister|reconnaître|traiter|mesure|capable|faire|autorisé|déterminer)",
    "es": r"(?:yo )?no (?:puedo|me es posible|soy capaz|estoy (?:autorizado|capacitado)|tengo)\b"
    r".{0,60}(?:ayudar|identificar|describir|responder|proporcionar|asistir|reconocer|procesar"
    r"|hacer|cumplir|ofrecer)",
    "zh": r"(?:我|目前我?|暂时|對此)[^，。\n]{0,8}(?:无法|不能|无权|没有办法|無法).{0,30}"
    r"(?:识别|辨认|提供|协助|帮|描述|回答|满足|完成|处理|查看|继续|讨论|分析|给到|给出|生成"
    r"|展示|識別|協助|幫|滿足|處理)"
    r"|(?:无法|不能|無法)(?:为您|对此|對此)?(?:识别|辨认|提供|协助|帮助|描述|回答|满足|处理"
    r"|識別|協助|幫助)[^的]{0,40}$",
    "ja": r".{0,60}(?:特定|識別|説明|回答|お答え|お手伝い|対応|支援|提供|記述|お応え)"
    r"(?:する(?:こと)?)?[はがを]?(?:でき|いたしかね|致しかね|しかね)(?:ません|ます)",
}
_OFFERS = {
    "en": r"if you|i'd love to|i (?:can )?(?:would|will) help|feel free|let me know|please"
    r"|thank|is there|(?:would|could|can) you"
    r"|i can (?:help|assist|try|describe|provide|offer|only)|you (?:can|may|could) |perhaps you"
    r"|i(?:'d|'ll| would| will|'m| am) (?:be )?(?:happy|glad|able)"
    r"|it(?:'s| is) (?:against|not (?:possible|appropriate))",
    "de": r"wenn (?:sie|du)|falls (?:sie|du)|bitte|gerne? |ich helfe",
    "fr": r"si vous|n'hésitez|veuillez|je (?:serai|suis) (?:ravi|heureu)",
    "es": r"si (?:tienes|necesita|desea|hay|me)|por favor|estaré encantad|con gusto",
    "zh": r"如果您?|请|若",
    "ja": r"もし|他の|別の",
}


def _any(by_language: Mapping[str, str]) -> str:
    return "|".join(by_language.values())


_POLITE_START = re.compile(
    rf"(?:(?:(?P<sorry>{_any(_SORRY)})|{_any(_PREAMBLE)})[\s,，、:—–-]*)+", re.I
)
_REFUSING = re.compile(_any(_REFUSES), re.I)
_OFFERING = re.compile(_any(_OFFERS), re.I)
_BREAK = re.compile(r"""[.!?。！？;:\n{}"“”]|,?\s(?:but|however|aber|mais|pero)\s|，但""", re.I)
_MOST_CLAUSES = 40


def is_refusal(text: str) -> bool:
    """Whether a whole answer, or a whole caption, is nothing but refusing words.

    Each of its clauses has to refuse, apologise or offer something else; a caption that contains
    such words, or a refusal that goes on to describe, is none. Marks and JSON keys count for
    nothing: an answer that refuses region by region is a refusal too. One that begins by telling
    that there is no picture, or that a proxy has failed, is one whatever follows. English, German,
    French, Spanish, Chinese and Japanese.

    >>> is_refusal("I'm sorry, but I can't assist with that.")
    True
    >>> is_refusal("a sign that says 'I'm sorry, we can't help you'")
    False
    """
    plain = clean(text)
    plain = unescape(plain) if "\\u" in plain else plain
    plain = plain.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    if is_guard(plain):
        return True
    refuses = settled = keyed = False
    for part in _BREAK.split(plain, maxsplit=_MOST_CLAUSES):
        clause = part.strip(" ,，-–—\t\"'*_`[]()|#<¿¡")
        if named_number(clause) is not None:  # what follows is another region's
            keyed, settled = True, False
            continue
        if settled:
            continue
        polite = _POLITE_START.match(clause)
        said = clause[polite.end() :] if polite else clause
        if tells_of_none(said) or is_guard(said):
            if not keyed:
                return True
            refuses = settled = True
            continue
        sorry = polite is not None and polite["sorry"] is not None and not said
        if sorry or _REFUSING.match(said):
            refuses = True
        elif said and not _OFFERING.match(said):
            return False
    return refuses
