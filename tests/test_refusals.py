"""Answers and captions that are nothing but refusing words, and captions that only hold them."""

from __future__ import annotations

import json

import pytest

from hf_regioncap.answers import parse_answer
from hf_regioncap.refusals import is_refusal

ONE, TWO = [1], [1, 2]
NOTHING: dict[int, str] = {}


REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but I can’t assist with that request.",
    "I'm sorry, I can't help with that.",
    "I am sorry, but I cannot help you with that.",
    "Sorry, I can't help with identifying people.",
    "I'm sorry.",
    "I can't assist with that",
    "I cannot identify the person in this image.",
    "I cannot identify or describe people in images.",
    "I can't identify who this is, sorry.",
    "I'm unable to identify people in images.",
    "I am unable to provide a description of this region.",
    "I'm not able to help with that.",
    "I am not able to view the image.",
    "I won't be able to describe this content.",
    "I cannot see the image you are referring to. Please upload it again.",
    "I don't have the ability to view images.",
    "I do not feel comfortable describing this image.",
    "I must decline to describe this image.",
    "I apologize, but I cannot fulfill this request.",
    "I apologize for the confusion, but I'm unable to process this image.",
    "My apologies, but I can't discuss that.",
    "Unfortunately, I cannot provide information about real people.",
    "As an AI language model, I am unable to identify people.",
    "As an AI, I cannot comply with this request.",
    "I'm just an AI and I can't assist with this.",
    "I'm afraid I can't do that.",
    "Due to privacy concerns, I can't identify the person.",
    "I'm sorry, but I can't identify people. If you have other questions, feel free to ask!",
    "I can't assist with that. However, I can describe the scene if you like.",
    "Unable to determine the content of this region.",
    "This request violates our content policy.",
    "I'm sorry, but no image was provided. Please upload it.",
    "It seems there is no image attached.",
    "Your request was rejected by our safety system.",
    "\"I'm sorry, but I can't assist with that.\"",
    "**I'm sorry, but I can't assist with that.**",
    "<region1>: I'm sorry, but I can't assist with that.",
    '{"1": "I\'m sorry, but I can\'t help with that.", "2": "I cannot identify this person."}',
    "<think>Who is it?</think>I'm sorry, but I can't help with that.",
    "Es tut mir leid, aber ich kann dabei nicht helfen.",
    "Tut mir leid, das kann ich nicht beschreiben.",
    "Ich kann diese Person leider nicht identifizieren.",
    "Leider kann ich Ihnen dabei nicht weiterhelfen.",
    "Als KI-Modell kann ich keine Personen identifizieren.",
    "Ich bin nicht in der Lage, Personen zu erkennen.",
    "Je suis désolé, mais je ne peux pas vous aider.",
    "Désolée, je ne peux pas identifier cette personne.",
    "Je ne suis pas en mesure de décrire cette image.",
    "En tant qu'IA, je ne peux pas répondre à cette demande.",
    "Lo siento, pero no puedo ayudar con eso.",
    "Lo siento, no puedo identificar a esta persona.",
    "No puedo describir esta imagen.",
    "Como modelo de lenguaje, no me es posible identificar personas.",
    "抱歉，我无法识别图中的人物。",
    "很抱歉，我不能提供帮助。",
    "对不起，我无法协助您完成这个请求。",
    "作为一个AI语言模型，我无法识别人物。",
    "我无法描述这张图片的内容。",
    "抱歉，無法識別此人。",
    "申し訳ありませんが、お手伝いできません。",
    "申し訳ございませんが、この画像の人物を特定することはできません。",
    "すみませんが、その質問にはお答えできません。",
    "この画像の内容を説明することはできません。",
]
NO_REFUSALS = [
    "",
    "a cat",
    "a sign that says 'I'm sorry, we can't help you'",
    'A sign reading "Sorry, we are closed".',
    "a man who cannot reach the shelf",
    "A man who is unable to open the door.",
    "Sorry! board game box",
    "The Sorry! board game.",
    'A poster with the words "I can\'t assist you".',
    "I can't believe it's not butter! tub",
    "A book titled I Cannot Tell a Lie",
    "A woman apologizing to a child",
    "A child saying sorry to a dog.",
    "a help desk that cannot assist anyone",
    "A screen with the message: I'm sorry, Dave.",
    "The text cannot be read because it is blurred.",
    "A blurred face that cannot be identified.",
    "There is no image on the screen.",
    "The person, who cannot be identified, wears a hat.",
    "I can see a red car next to a tree.",
    "I see a dog. I cannot see its tail, which is behind the fence.",
    "I can't identify the man, but he is wearing a red shirt.",
    "I'm sorry, but I can't say who this is. The man wears a red shirt and a hat.",
    "I cannot identify the person. However, the man is wearing a blue suit.",
    "I'm sorry, but I can't identify people. I can describe this: a man in a hat.",
    '{"1": "a cat", "2": "I\'m sorry, but I can\'t assist with that."}',
    "<region1>: a cat\n<region2>: I cannot identify this person.",
    "As an AI art piece, the robot stands in a hall.",
    "An AI assistant's logo on a screen.",
    "This content creator holds a camera.",
    "The request form on the table has a blue border.",
    "Unfortunately named shop: 'Bad Food'.",
    "A help button; a sorry sight.",
    "Ich-Figur: ein Mann, der nicht helfen kann",
    "Ein Schild mit der Aufschrift 'Ich kann nicht helfen'.",
    "Ein Mann, der das Regal nicht erreichen kann.",
    "Une femme qui ne peut pas atteindre l'étagère.",
    "Un panneau : « Désolé, nous sommes fermés ».",
    "Un hombre que no puede alcanzar el estante.",
    "Un cartel que dice 'lo siento'.",
    "一个无法识别的物体放在桌子上。",
    "无法识别的文字写在墙上。",
    "一个男人无法够到架子。",
    "写着“对不起，我无法帮助您”的牌子。",
    "棚に手が届かない人。",
    "「申し訳ありません」と書かれた看板。",
    "説明できない形の彫刻。",
    "N/A",
    "Sorry, We're Open sign",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_refusing_words_are_no_caption(text):
    assert is_refusal(text)
    assert parse_answer(text, ONE) == NOTHING


@pytest.mark.parametrize("text", NO_REFUSALS)
def test_captions_may_contain_refusing_words(text):
    assert not is_refusal(text)


def test_refused_captions_leave_the_others():
    for refusal in (text for text in REFUSALS if text.startswith(("I", "E", "J", "L", "抱"))):
        assert parse_answer(f"<region1>: {refusal}\n<region2>: a dog", TWO) == {2: "a dog"}
        answer = json.dumps({"1": refusal, "2": "a dog"})
        assert parse_answer(answer, TWO) == {2: "a dog"}
