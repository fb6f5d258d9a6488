"""Words of models without a picture, of guards and proxies; captions that speak of such things."""

from __future__ import annotations

import json

import pytest

from hf_regioncap.answers import parse_answer
from hf_regioncap.dialogue import read_answer
from hf_regioncap.refusals import is_refusal
from hf_regioncap.response import Completion

NO_CAPTIONS = [
    # no picture, in English
    "I don't see an image.",
    "I don’t see any image attached to your message.",
    "I'm happy to help, but I don't see an image. You mentioned a region, yet nothing is visible "
    "in this text-based interface. Could you please describe the image to me?",
    "I don't see any image. Based on the prompt, region 1 may show a dog on a lawn.",
    "I cannot see the image. Could you upload it again?",
    "I can't view images directly, but I can help if you describe it.",
    "I'm unable to view or analyze images at this time.",
    "I am not able to access the attached image.",
    "Unfortunately, I'm a large language model, I don't have the capability to directly receive or "
    "display images. However, there are a few workarounds: describe the picture in detail.",
    "As a text-based AI, I can't view images directly, but if you tell me more, I can help.",
    "As an AI, I can only work with text.",
    "I currently don't have the ability to see pictures.",
    "No image was provided.",
    "No picture was attached.",
    "There is no image attached to this conversation.",
    "There doesn't appear to be an image. There is no image in your message.",
    "It looks like you haven't uploaded an image yet. Please attach the photo.",
    "It seems you forgot to attach the image.",
    "Hello! It seems that the image you mentioned did not come through. Please try again.",
    "The image failed to load.",
    "The image seems to be missing.",
    "Please provide the image.",
    "Please upload the picture you would like me to describe.",
    "Could you please share the image again?",
    "Can you upload the photo?",
    "Please provide more details.",
    "Hello! How can I assist you today?",
    # guards and proxies
    "Sorry, the model cannot answer this question.",
    "Sorry, the assistant is unable to process your request.",
    "This model does not support image inputs.",
    "The generated text has been blocked by our content filters.",
    "Your request was flagged as potentially violating our usage policy.",
    "This content may violate our policies.",
    "unsafe\nS10",
    "unsafe\nS1,S10",
    "[Proxy Error] This model's maximum context length is 4096 tokens.",
    "[Upstream Error] 502",
    "Error: upstream request timeout",
    "Error: Request timed out.",
    "Error: Internal Server Error",
    "Error 503 Service Unavailable",
    "502 Bad Gateway",
    "HTTP 429",
    "An error occurred while processing your request. Please try again later.",
    "An unexpected error occurred.",
    "Something went wrong, please try again.",
    "Rate limit exceeded.",
    "The server is busy. Please try again later.",
    "Failed to generate response.",
    "Traceback (most recent call last):\n  File 'x.py', line 3",
    "<!DOCTYPE html>\n<html><body>502</body></html>",
    "<html><h1>busy</h1></html>",
    # German
    "Ich sehe kein Bild.",
    "Ich habe leider kein Bild erhalten. Bitte laden Sie es hoch.",
    "Leider kann ich keine Bilder sehen, aber ich helfe gerne weiter.",
    "Ich kann das Bild nicht sehen.",
    "Es wurde kein Bild bereitgestellt.",
    "Kein Bild hochgeladen.",
    "Bitte laden Sie das Bild hoch.",
    "Hallo! Bitte lade ein Bild hoch.",
    "Es ist ein Fehler aufgetreten. Bitte versuchen Sie es später erneut.",
    "Ein interner Fehler ist aufgetreten.",
    # French
    "Je ne vois pas d'image.",
    "Je ne vois aucune image jointe à votre message.",
    "Désolé, je ne peux pas voir les images.",
    "Je ne suis malheureusement pas en mesure de visualiser l’image.",
    "Aucune image n'a été fournie.",
    "Bonjour ! Veuillez télécharger l'image.",
    "Pourriez-vous fournir l'image ?",
    "Une erreur s'est produite. Veuillez réessayer.",
    # Spanish
    "No veo ninguna imagen.",
    "Lo siento, no puedo ver la imagen.",
    "No se ha proporcionado ninguna imagen.",
    "No has adjuntado ninguna imagen.",
    "Por favor, sube la imagen que quieres que describa.",
    "¿Podrías compartir la imagen?",
    "Se produjo un error al procesar la solicitud.",
    # Chinese
    "您好，我无法查看图片，请您提供更多信息。",
    "你好，我无法给到相关内容。",
    "抱歉，我看不到您上传的图片。",
    "我没有收到图片。",
    "您没有上传图片。",
    "请上传图片。",
    "请您提供需要描述的图片，以便我为您描述。",
    "服务器繁忙，请稍后再试。",
    "系统错误",
    "您的问题包含敏感信息。",
    # Japanese
    "画像が見えません。",
    "申し訳ありませんが、画像が添付されていないようです。",
    "画像を確認できません。もう一度アップロードしてください。",
    "画像をアップロードしてください。",
    "画像がありません。",
    "エラーが発生しました。",
]

CAPTIONS = [
    "A sign that says 'Sorry, we're closed'.",
    "Sorry, we're closed sign on a door",
    "I see a red car and a tree.",
    "I see no cars in the street, only a bus.",
    "I don't see the image's left half, but the right shows a dog.",
    "I cannot see the picture frame clearly, but it holds a portrait.",
    "An image of a dog printed on a mug",
    "The image shows a dog.",
    "The picture is missing from its frame.",
    "The image is displayed on a monitor.",
    "The photo is attached to the fridge with a magnet.",
    "No image is visible on the television screen.",
    "There is no picture on the wall.",
    "No photography sign",
    "A phone that shows the words 'Please upload the photo'.",
    "Please do not touch sign",
    "A clock at 10:30",
    "Error message on a laptop screen",
    "Error: a blue screen on a cash machine",
    "An error message is displayed on the monitor.",
    "Bad gateway error shown on a monitor",
    "404 not found page on a tablet",
    "Service unavailable notice on a ticket machine",
    "A broken server rack",
    "The server is busy taking orders.",
    "The server is carrying two plates.",
    "The model cannot stand still for the photo.",
    "The model does not look at the camera.",
    "The content of the sign is blocked by a tree.",
    "The content of this box is a safety vest.",
    "The response team wears safety vests.",
    "The text is blocked by a pole.",
    "unsafe ladder leaning on a wall",
    "A safe",
    "Unsafe water sign, S10 on a pole",
    "Hi-vis jacket on a hook",
    "Hello Kitty backpack",
    "Hiking boots",
    "Sure deodorant on a shelf",
    "Thank you note on a table",
    "How to help poster on a wall",
    "Connection cables behind a desk",
    "The request timed the runner.",
    "A language model explained on a whiteboard",
    "Ein Bild an der Wand",
    "Ich sehe einen Hund auf dem Sofa.",
    "Kein Bild hängt an der Wand.",
    "Ein Fehler in der Bildmitte",
    "Bitte nicht betreten, steht auf dem Schild",
    "Hallo-Schild an einer Tür",
    "Je vois une voiture rouge.",
    "Aucune image sur le mur blanc, juste une horloge",
    "Une image accrochée au mur",
    "Une erreur est affichée sur l'écran",
    "Veuillez patienter, dit l'écran",
    "Veo un perro en el sofá.",
    "No hay imagen en la pantalla del televisor, está apagado.",
    "Una imagen en la pared",
    "Por favor, no tocar, dice el cartel",
    "图片挂在墙上",
    "没有图片的白墙",
    "一张图片被贴在冰箱上",
    "请上传图片的按钮",
    "写着“服务器繁忙”的屏幕",
    "看不到图片边缘的狗",
    "画像が表示されていないモニター",
    "写真を撮っている人",
    "画像編集ソフトの画面",
    "エラーが発生した画面",
]


@pytest.mark.parametrize("text", NO_CAPTIONS)
def test_such_words_are_no_caption(text: str) -> None:
    assert is_refusal(text)
    assert parse_answer(text, [1]) == {}
    assert parse_answer(json.dumps({"1": text, "2": "a dog"}), [1, 2]) == {2: "a dog"}
    caption = {"1": text, "2": text}
    for answer in (text, json.dumps(caption), json.dumps(caption, ensure_ascii=False)):
        assert read_answer(Completion(text=answer), [1, 2]).status == "api_refused"


@pytest.mark.parametrize("text", CAPTIONS)
def test_captions_may_speak_of_pictures_and_errors(text: str) -> None:
    assert not is_refusal(text)
    assert parse_answer(text, [1]) == {1: text}
    assert parse_answer(json.dumps({"1": text}), [1]) == {1: text}


def test_a_region_without_a_picture_leaves_the_others() -> None:
    answer = {"1": "I don't see an image. Please upload it.", "2": "a dog"}
    assert not is_refusal(json.dumps(answer))
    assert parse_answer(json.dumps(answer), [1, 2]) == {2: "a dog"}
    text = "<region1>: I don't see an image.\n<region2>: a dog"
    assert parse_answer(text, [1, 2]) == {2: "a dog"}
