"""Words of a model that got no picture, or of whatever stands between: by language.

Each pattern is for the beginning of a clause, and settles the whole text that it begins: what
follows "I don't see an image" is made up. It has to be the clause's whole sense: "the picture is
missing from its frame" describes one.
"""

from __future__ import annotations

import re

_IMAGE = r"(?:images?|pictures?|photos?|photographs?|attachments?|screenshots?|image files?)"
_LOOK = (
    r"(?:see|view|find|receive|access|open|display|detect|load|process|analy[sz]e|interpret"
    r"|look at|read|describe)"
)
_WHICH = r"(?:(?:the|any|an?|your|this|that|these|those|actual|attached|uploaded|provided|of) )*"
#: What may follow the word for a picture where the sentence is about this conversation's.
_OF_OURS = (
    r"(?=[ ]?$|[ ]?[,(–—-]|[ ](?:you|that|which|attached|provided|uploaded|included|shared|sent"
    r"|here"
    r"|yet|directly|itself|or|and|again|so|first|in (?:your|this|our|the) (?:message|conversation"
    r"|chat|request|prompt|text|input)|to (?:describe|analy[sz]e|work|caption)|for me"
    r"|at (?:this|the"
    r") (?:time|moment)|right now|because|since|due)\b)"
)
_NOT = (
    r"(?:do not|don't|did not|didn't|cannot|can not|can't|could not|couldn't"
    r"|(?:am |'m |was )?(?:unable|not able) to)"
)
_GIVEN = r"(?:attached|provided|included|uploaded|shared|sent|supplied|received|given)"
_ENGLISH: tuple[str, ...] = (
    rf"(?:i |i'm |we )?(?:(?:still|really|currently|actually|also) )?{_NOT} (?:\w+ly )?{_LOOK}"
    rf"(?:(?:,? (?:or|and)|,|/) ?{_LOOK}){{0,3}} {_WHICH}{_IMAGE}{_OF_OURS}",
    r"i (?:(?:currently|really) )?(?:do not|don't|lack|have no) (?:\w+ ){0,3}(?:ability|capability"
    rf"|capabilities|capacity|means|way|access)\b.{{0,60}}\b(?:{_IMAGE}|visual\w*)",
    r"i(?:'m| am) (?:just |only )?an? (?:(?:large )?language model"
    r"|(?:\w+ ){0,2}text[- ](?:based|only))",
    rf"there (?:does not|doesn't) (?:appear|seem) to be (?:any|an?) {_IMAGE}",
    r"i can only (?:work with|process|handle|read|understand|see) text",
    rf"(?:there(?:'s| is| was| appears to be| seems to be) |i see |i have )?no {_IMAGE} "
    rf"(?:(?:was|were|is|are|has been|have been|seems? to be|appears? to be) )?(?:{_GIVEN}"
    r"|in (?:your|this|our) (?:message|conversation|chat|request|prompt)|to (?:describe"
    r"|caption))\b",
    r"you (?:have not|haven't|have yet to|did not|didn't|forgot to|may have forgotten to|'ve not) "
    rf"(?:\w+ )?(?:attach|upload|provid|shar|includ|send|sent"
    rf"|supplie)\w*.{{0,30}}\b{_IMAGE}{_OF_OURS}",
    rf"(?:the|your) {_IMAGE} (?:(?:you|i) \w+ )?(?:did not|didn't|does not|doesn't|has not|hasn't"
    r"|was not|wasn't|were not|weren't|is not|isn't|could not|couldn't|failed to) (?:be |been "
    r"|seem to"
    r" )?(?:\w+ly )?(?:come through|upload\w*|attach\w*|load\w*|display\w*|provided|included|shared"
    r"|received|accessible|visible to me)(?= ?$| ?[,(–—-]| (?:to me|correctly|properly"
    r"|in (?:your|this)))",
    rf"(?:the|your) {_IMAGE} (?:is|seems to be|appears to be) missing(?= ?$|,)",
    r"(?:(?:please|kindly|could you|can you|would you)(?: please| kindly)?|please \w+ly) (?:re-?)?"
    r"(?:provide|upload|attach|share|send|include|supply|paste)(?: me| us)?(?: with)? "
    rf"(?:(?:the|an?|your|that|this|it|actual|as) )*{_IMAGE}{_OF_OURS}",
    r"please provide (?:me with )?(?:more|additional|further) (?:details|information|context)",
    r"how (?:can|may|could) i (?:help|assist) you|what would you like me to (?:describe|do|help)",
    # proxies and guards
    r"(?:the|this|our) (?:model|assistant|system|ai|service|chatbot) (?:cannot|can't|can not"
    r"|could not"
    r"|couldn't|is unable to|is not able to|was unable to|does not|doesn't) (?:answer|process"
    r"|respond"
    r" to|handle|complete|support|generate|accept|fulfil\w*) (?:(?:this|that|your|the|any|an?) )?"
    r"(?:question|request|query|prompt|response|input|answer|image inputs?|images|vision)\b",
    r"(?:the )?(?:generated|model's) (?:text|content|response|output|answer)s? (?:has been"
    r"|have been|was"
    r"|were) (?:blocked|filtered|flagged|withheld)",
    r"(?:\w+ ){1,2}error\]",  # of "[Proxy Error] ..."
    r"traceback \(most recent call last",
    r"(?:the|this) model's maximum context length",
)
_ERRORS = (
    r"an? (?:\w+ ){0,2}error (?:has )?occurred|something went wrong|internal (?:server )?error"
    r"|bad gateway|gateway time-?out|too many requests|service (?:is )?(?:temporarily |currently )?"
    r"unavailable|upstream (?:\w+ ){0,2}(?:timeout|timed out|error|reset|failure|unavailable)"
    r"|(?:the )?(?:request|connection|gateway|operation|stream) (?:has )?(?:timed out|timeout"
    r"|was reset|reset by peer|was refused|refused|was aborted|aborted)"
    r"|(?:the )?(?:api )?rate limit (?:is |was |has been )?(?:exceeded|reached)"
    r"|(?:the )?(?:server|model|engine|service) is (?:currently |temporarily )?"
    r"(?:overloaded|busy|unavailable)"
    r"|failed to (?:process|generate|fetch|get|call) (?:(?:the|your|an?) )?(?:\w+ )?"
    r"(?:response|request|answer|completion|api)|unexpected (?:error|status|end of stream)"
)
_ENGLISH += (
    rf"(?:http )?(?:error )?(?:\d{{3}} )?(?:{_ERRORS})"
    r"(?=[ ]?$|[ ]?[,(-]|[ ](?:while|when|during|from|by|for|after|because|due|and|with)\b)",
    r"http (?:error |status )?\d{3}(?= ?$)",
)

_GERMAN = (
    r"ich (?:sehe|finde|habe|erkenne) (?:(?:hier|leider|aber|derzeit|noch|bisher) )*keine?n? "
    r"(?:bild|bilder|foto|fotos|anhang|datei)(?= ?$|,| (?:erhalten|gefunden|in|zu|das|im"
    r"|bekommen))",
    r"(?:ich kann|kann ich) (?:\w+ ){0,3}keine (?:bilder|fotos)(?: \w+){0,2} (?:sehen|anzeigen"
    r"|öffnen|ansehen"
    r"|betrachten|verarbeiten|einsehen|analysieren)",
    r"(?:ich kann|kann ich) (?:(?:leider|derzeit) )?(?:das|dein|ihr|dieses|kein) (?:bild"
    r"|foto) (?:\w+ ){0,2}?"
    r"(?:nicht )?(?:\w+ )?(?:sehen|anzeigen|öffnen|ansehen|laden|einsehen)(?= ?$|,)",
    r"(?:es )?(?:wurde|ist|war) (?:\w+ ){0,2}kein (?:bild|foto) (?:\w+ )?(?:bereitgestellt"
    r"|hochgeladen"
    r"|angehängt|mitgeschickt|übermittelt|beigefügt|vorhanden|gesendet|zur verfügung)",
    r"kein (?:bild|foto) (?:bereitgestellt|hochgeladen|angehängt|übermittelt|beigefügt)",
    r"sie haben (?:\w+ )?kein (?:bild|foto) (?:bereitgestellt|hochgeladen|angehängt|geschickt)",
    r"(?:bitte|könnten sie|kannst du|könntest du)(?: bitte)? (?:(?:laden?|stellen?|senden?"
    r"|schicken?"
    r"|fügen?|teilen?|hängen?) )?(?:(?:sie|mir|das|ein|ihr|dein|die) ){1,3}(?:bild|foto)"
    r"(?= ?$|,| (?:hoch|bereit|zur|an|erneut|noch|mit|bei|hier|zu)\b)",
    r"(?:es (?:ist|trat) |beim .{1,40} ist )?ein (?:\w+ )?fehler (?:ist )?(?:aufgetreten"
    r"|auf(?= ?$))",
    r"bitte versuchen sie es (?:später|erneut|noch)",
)
_FRENCH = (
    r"je ne (?:vois|trouve|reçois|détecte) (?:malheureusement )?(?:pas|aucune) ?(?:d'|l'|de "
    r"|la |cette"
    r" |votre )?(?:image|photo|pièce jointe)(?= ?$|,| (?:jointe|fournie|dans (?:votre|ce)|que|à))",
    r"je (?:ne peux|ne suis|n'arrive|ne parviens) (?:malheureusement )?pas (?:en mesure de "
    r"|capable de "
    r"|à )?(?:directement )?(?:voir|visualiser|afficher|ouvrir|accéder|analyser|traiter|consulter)"
    r"(?: directement)? (?:aux? |à )?(?:l'|les |des |d'|cette |votre |vos |une |la )?"
    r"(?:images?|photos?)(?= ?$|,| (?:que|jointe|fournie|car|directement))",
    r"aucune (?:image|photo) (?:n'a été |n'est |n'était )?(?:fournie|jointe|téléchargée|envoyée"
    r"|transmise|reçue|partagée)",
    r"il n'y a (?:pas d'|aucune )(?:image|photo)(?= ?$|,| (?:jointe|fournie|dans votre|à décrire))",
    r"vous n'avez (?:pas |encore )*(?:fourni|joint|téléchargé|envoyé|partagé) (?:d'|l'|aucune )?"
    r"(?:image|photo)",
    r"(?:veuillez|merci de|pouvez-vous|pourriez-vous)(?: me| s'il vous plaît)? (?:fournir"
    r"|télécharger"
    r"|joindre|envoyer|partager|transmettre|importer) (?:(?:à nouveau|une|la|votre|cette) )*(?:l')?"
    r"(?:image|photo)(?= ?$|,| (?:que|à|afin|pour|s'il))",
    r"une erreur (?:inattendue )?(?:s'est produite|est survenue)"
    r"|erreur interne(?: du serveur)?(?= ?$)",
)
_SPANISH = (
    r"no (?:veo|encuentro|recibo|he recibido|detecto|puedo (?:ver|visualizar|acceder a|abrir"
    r"|procesar"
    r"|analizar)) (?:directamente )?(?:(?:ninguna|la|una|las|tu|su|esta) )?(?:imagen|imágenes"
    r"|fotos?)"
    r"(?= ?$|,| (?:que|adjunta|directamente|en (?:tu|su|este)))",
    r"no (?:se (?:me )?(?:ha )?|has |ha |hay )(?:(?:proporcion|adjunt|sub|inclu|envi|compart"
    r"|recib)\w+ )?"
    r"(?:(?:ninguna|una|la) )?(?:imagen|foto)(?= ?$|,| (?:adjunta|para describir|en (?:tu|su"
    r"|este)))",
    r"ninguna imagen (?:fue|ha sido) (?:proporcionada|adjuntada|enviada|subida)",
    r"(?:por favor,? |podrías |podría |puedes |puede )(?:(?:por favor|volver a|vuelva a"
    r"|vuelve a) )?"
    r"(?:proporcion|sub[aei]|adjunt|env[ií]|compart|carg)\w* (?:(?:la|una|tu|su|esa|esta) )?"
    r"(?:imagen|foto)(?= ?$|,| (?:que|de nuevo|para|otra))",
    r"(?:ha ocurrido|se produjo|se ha producido|ocurrió|hubo) un error(?= ?$|,| (?:al|en"
    r"|inesperado))",
)
_ZH_IMAGE = r"(?:图片|图像|照片|圖片|圖像)(?:内容|文件|信息|附件|內容)?"
_ZH_END = r"(?=$|[，,；;！!\s])"
_CHINESE = (
    r"我?(?:暂时|目前|现在|还|并|也)?(?:无法|不能|没法|没有办法|無法)(?:直接)?(?:查看|看到|看见"
    r"|访问|打开"
    rf"|接收|读取|浏览|查閱)(?:到)?(?:您|你|任何|这张|该|上传|提供|发送|的"
    rf"|此)*{_ZH_IMAGE}{_ZH_END}",
    rf"我?看不(?:到|见|見)(?:您|你|任何|这张|该|上传|提供|发送|的)*{_ZH_IMAGE}{_ZH_END}",
    r"我?(?:没有|没|并未|未|沒有)(?:看到|收到|发现|检测到|接收到)(?:您|你|任何|上传|提供|发送|的)*"
    rf"{_ZH_IMAGE}{_ZH_END}",
    r"(?:您|你)?(?:似乎|好像|可能)?(?:没有|未|还没有?|尚未|忘记|忘了|并未)(?:提供|上传|附上"
    r"|发送|附加|分享)"
    rf"(?:任何|一张|的)*{_ZH_IMAGE}{_ZH_END}",
    r"请(?:您|你)?(?:先|重新|再次|提供|上传|发送|附上|分享)+(?:一下|一张|您|你|需要|要|描述|想"
    r"|我|清晰|相关|的)*"
    rf"{_ZH_IMAGE}(?=$|[，,；;！!\s以并])",
    r"(?:系统|服务器?|网络|请求)(?:发生|出现)?(?:了)?(?:错误|繁忙|异常|超时|失败|暂时不可用"
    r"|不可用|过于频繁)"
    rf"{_ZH_END}|(?:发生|出现)(?:了)?(?:错误|异常|未知错误){_ZH_END}|请稍后(?:再试|重试){_ZH_END}",
    r"(?:您|你)的(?:问题|请求|输入|提问|内容).{0,12}(?:敏感|违规|违反)",
)
_JA_NOT = r"(?:ません|ない(?=$|よう|ため|ので|のです|です|と))"
_JAPANESE = (
    r"(?:(?:ご|お)?(?:提供|添付|送信|アップロード)?(?:された|いただいた)?)?(?:画像|写真"
    r"|添付ファイル)(?:が|は|を|も)"
    r"(?:直接|現在|まだ|何も)?(?:見え|見ることができ|見られ|確認でき|確認することができ"
    r"|表示でき|添付され(?:てい)?"
    rf"|提供され(?:てい)?|アップロードされ(?:てい)?|見当たり|届いてい|読み込め|開け|閲覧でき"
    rf"|送信され(?:てい)?){_JA_NOT}",
    r"(?:画像|写真)(?:が|は)(?:ありません|ないようです|ございません)",
    r"(?:画像|写真)を(?:もう一度|再度)?(?:アップロード|添付|提供|送信|共有|お送り|ご提供|貼り付け)"
    r"(?:して|いただ|お願い|下さい|ください)",
    r"(?:\S{0,10})?エラーが発生し(?:ました|ています)(?=$|[、\s])|しばらくしてから(?:再度|もう一度)",
)

_SETTLES = re.compile(
    "|".join((*_ENGLISH, *_GERMAN, *_FRENCH, *_SPANISH, *_CHINESE, *_JAPANESE)), re.IGNORECASE
)
#: A guard's verdict, and a proxy's page, in place of an answer.
_GUARD = re.compile(
    r"unsafe(?:\s|\\n)*S\d{1,2}(?:\s*,\s*S\d{1,2})*|<?!?doctype html\b.*|<?html>.*"
    r"|<html\b.*",
    re.I | re.S,
)


def tells_of_none(clause: str) -> bool:
    """Whether a clause says that there is no picture, or that something went wrong on the way.

    >>> tells_of_none("I don't see an image"), tells_of_none("I don't see the image's left half")
    (True, False)
    """
    return _SETTLES.match(clause) is not None


def is_guard(text: str) -> bool:
    """Whether a text is a guard model's verdict or an HTML page.

    >>> is_guard("unsafe\\nS10"), is_guard("unsafe ladder")
    (True, False)
    """
    return _GUARD.fullmatch(text.strip()) is not None
