"""Rows of other trainers, of LLaVA-Critic, and of annotation files."""

from __future__ import annotations

from typing import Any

from tests.llava_rlhf.importing.cases import (
    ASKED,
    BOTH,
    CAT,
    DOG,
    MM_RLHF,
    NO_IMAGE,
    RLAIF_V,
    RLHF_V,
    TRL,
    TWO,
    VLFEEDBACK,
    Case,
    Made,
    case,
    gpt,
    human,
    told,
    user,
)

ANSWERS = {"chosen": gpt(CAT), "rejected": gpt(DOG)}
LLAMA_FACTORY = {
    "good": case({"conversations": [human(f"<image>\n{ASKED}")], **ANSWERS, "images": ["a.png"]}, Made()),
    "openai": case(
        {
            "messages": [user(f"<image>\n{ASKED}")],
            "chosen": told(CAT),
            "rejected": told(DOG),
            "images": ["a.png"],
        },
        Made(),
    ),
    "several turns": case(
        {
            "conversations": [human("<image>\nHello?"), gpt("Hello."), human(ASKED)],
            **ANSWERS,
            "images": ["a.png"],
        },
        Made(("<image>\nHello?", "Hello.", ASKED)),
    ),
    "several pictures": case(
        {"conversations": [human(f"<image>\n<image>\n{ASKED}")], **ANSWERS, "images": ["a.png", "b.png"]}, TWO
    ),
    "no picture": case({"conversations": [human(ASKED)], **ANSWERS, "images": []}, NO_IMAGE),
    "text alone": case({"conversations": [human(ASKED)], **BOTH}, NO_IMAGE),
    "unmarked": case({"conversations": [human(ASKED)], **ANSWERS, "images": ["a.png"]}, Made()),
    "system": case(
        {"conversations": [human(ASKED)], **ANSWERS, "system": "Be kind."},
        refused=("conversations[0]", "--system_messages drop"),
    ),
    "too many markers": case(
        {"conversations": [human(f"<image><image>{ASKED}")], **ANSWERS, "images": ["a.png"]},
        refused=("conversations", "must have one <image> for each picture"),
    ),
    "question as answer": case(
        {"conversations": [human(ASKED)], "chosen": human(CAT), "rejected": gpt(DOG)},
        refused=("chosen", "must be an answer"),
    ),
    "tool": case(
        {"conversations": [human(ASKED), {"from": "function_call", "value": "f"}], **ANSWERS},
        refused=("conversations[1].from", "must be one of"),
    ),
    "no messages": case(
        {"conversations": [], **ANSWERS}, refused=("conversations", "must be a list of messages")
    ),
}
MS_SWIFT = {
    "good": case(
        {"messages": [user(f"<image>\n{ASKED}"), told(CAT)], "rejected_response": DOG, "images": ["a.png"]},
        Made(),
    ),
    "rejected messages": case(
        {
            "messages": [user(f"<image>\n{ASKED}"), told(CAT)],
            "rejected_messages": [user(f"<image>\n{ASKED}"), told(DOG)],
            "images": ["a.png"],
            "rejected_images": ["a.png"],
        },
        Made(),
    ),
    "older rows": case(
        {"query": ASKED, "response": CAT, "rejected_response": DOG, "images": ["a.png"]}, Made()
    ),
    "several pictures": case(
        {"messages": [user(ASKED), told(CAT)], "rejected_response": DOG, "images": ["a.png", "b.png"]}, TWO
    ),
    "no picture": case(
        {"messages": [user(ASKED), told(CAT)], "rejected_response": DOG, "images": []}, NO_IMAGE
    ),
    "text alone": case({"messages": [user(ASKED), told(CAT)], "rejected_response": DOG}, NO_IMAGE),
    "several turns": case(
        {"messages": [user("Hi"), told("Hello."), user(ASKED), told(CAT)], "rejected_response": DOG},
        Made(("Hi", "Hello.", ASKED), ()),
    ),
    "other pictures": case(
        {
            "messages": [user(ASKED), told(CAT)],
            "rejected_response": DOG,
            "images": ["a.png"],
            "rejected_images": ["b.png"],
        },
        refused=("rejected_images", "about the same pictures"),
    ),
    "another question": case(
        {"messages": [user(ASKED), told(CAT)], "rejected_messages": [user("Who?"), told(DOG)]},
        refused=("rejected_messages", "must be the messages of `messages`"),
    ),
    "no answer": case(
        {"messages": [user(ASKED)], "rejected_response": DOG},
        refused=("messages", "must end with the answer"),
    ),
    "system": case(
        {"messages": [{"role": "system", "content": "x"}, user(ASKED), told(CAT)], "rejected_response": DOG},
        refused=("messages[0]", "--system_messages drop"),
    ),
}


def compared(said: str, first: str = CAT, second: str = DOG, **fields: Any) -> dict[str, Any]:
    text = f"<image>\nJudge. Question: [{ASKED}]\nThe first response: [{first}]\nThe second response: [{second}]\nASSISTANT:\n"
    return {"id": "1", "image": "a.png", "conversations": [human(text), gpt(said)], **fields}


LLAVA_CRITIC = {
    "first": case(compared("The first response is better, as there is a cat."), Made()),
    "second": case(
        compared("Overall, the second response is clearly better."),
        Made(chosen=DOG, rejected=CAT, preference=2),
    ),
    "numbered": case(compared("Response 1 is better than response 2."), Made()),
    "in brackets": case(compared("… The better response: [2]"), Made(chosen=DOG, rejected=CAT, preference=2)),
    "brackets in answers": case(
        compared("The first response is better.", "A [black] cat.", "[A dog]"),
        Made(chosen="A [black] cat.", rejected="[A dog]"),
    ),
    "several pictures": case(compared("The first response is better.", image=["a.png", "b.png"]), TWO),
    "no picture": case(compared("The first response is better.", image=None), NO_IMAGE),
    "tie": case(compared("Both are equally good."), ties=1),
    "neither": case(
        compared("I can't tell."), refused=("conversations[1].value", "doesn't say which response is better")
    ),
    "each": case(
        compared("The first response is better. No, the second response is better."),
        refused=("conversations[1].value", "says that each is better"),
    ),
    "no comparison": case(
        {"conversations": [human("The first response: a. The second response: b."), gpt("x")]},
        refused=("conversations[0].value", "must hold `Question"),
    ),
    "another turn": case(
        {"conversations": [*compared("x")["conversations"], human("?")]},
        refused=("conversations", "must be one question and one verdict"),
    ),
}
RANKED = {"id": "RLHF-V-1", "query": ASKED, "response": [CAT, DOG], "human_ranking": [0, 1]}
VL_REWARDBENCH = {
    "good": case({**RANKED, "image_path": "a.png", "models": ["m", "n"], "judge": "human"}, Made()),
    "second": case({**RANKED, "human_ranking": [1, 0], "image": "a.png"}, Made(chosen=DOG, rejected=CAT, preference=2)),
    "marked": case({**RANKED, "query": f"<image>\n{ASKED}", "image_path": "a.png"}, Made()),
    "several pictures": case({**RANKED, "image": ["a.png", "b.png"]}, TWO),
    "no picture": case({**RANKED, "image_path": None}, NO_IMAGE),
    "tie": case({**RANKED, "human_ranking": [0, 0]}, refused=("human_ranking", "must be [0, 1] or [1, 0]")),
    "three": case({**RANKED, "response": [CAT, DOG, CAT]}, refused=("response", "a list of two answers")),
    "no answer": case({**RANKED, "response": [CAT, " "]}, refused=("response[1]", "empty")),
}  # fmt: skip
BETTER = {
    "ID": "math-1",
    "Category": "reasoning",
    "Text": ASKED,
    "Output1": CAT,
    "Output2": DOG,
    "Better": "Output1",
}
MULTIMODAL_REWARDBENCH = {
    "good": case({**BETTER, "Image": "a.png"}, Made()),
    "second": case({**BETTER, "Better": "Output2", "Image": "a.png"}, Made(chosen=DOG, rejected=CAT, preference=2)),
    "several pictures": case({**BETTER, "Image": ["a.png", "b.png"]}, TWO),
    "no picture": case({**BETTER, "Image": None}, NO_IMAGE),
    "text alone": case(BETTER, NO_IMAGE),
    "tie": case({**BETTER, "Better": "tie"}, refused=("Better", "must be Output1 or Output2")),
    "no answer": case({**BETTER, "Output2": ""}, refused=("Output2", "empty")),
}  # fmt: skip
PREFERENCE_CASES: dict[str, dict[str, Case]] = {
    "trl": TRL,
    "rlaif_v": RLAIF_V,
    "rlhf_v": RLHF_V,
    "vlfeedback": VLFEEDBACK,
    "mm_rlhf": MM_RLHF,
    "llama_factory": LLAMA_FACTORY,
    "ms_swift": MS_SWIFT,
    "llava_critic": LLAVA_CRITIC,
    "vl_rewardbench": VL_REWARDBENCH,
    "multimodal_rewardbench": MULTIMODAL_REWARDBENCH,
}
