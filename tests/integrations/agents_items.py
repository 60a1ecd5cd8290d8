"""Items of the Agents SDK, of every kind and of none, for tests."""


def user(text):
    return {"role": "user", "content": text}


def said(text, number=1):
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed", "content": [part]}


def numbered(count, start=0):
    return [user(f"item {number}") for number in range(start, start + count)]


ITEMS = [
    user("text"),
    {"role": "user", "content": [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": "u"}]},
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": "Be kind.", "type": "message"},
    said("hello"),
    {**said("thinking aloud"), "phase": "commentary"},
    {"role": "assistant", "content": "plain"},
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a": 1,  "b":[]}', "status": "completed"},
    {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "not json"},
    {"type": "function_call_output", "call_id": "c1", "output": "3"},
    {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "x"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": "e"},
    {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": None},
    {"type": "computer_call", "id": "cu", "call_id": "c3", "action": {"type": "click", "x": 1, "y": 2}},
    {"type": "item_reference", "id": "msg_9"},
    {"type": "compaction", "encrypted_content": "abc"},
    {"type": "a_kind_of_tomorrow", "x": {"y": [1, 1.0, True, None, -0.0, 1e300]}},
    {"type": "Not A Type!", "": ""},
    {"type": "unreadable"},
    {"role": "user"},
    {"no": "kind"},
    {"role": "user", "content": "a lone \ud800 surrogate"},
    {"type": "number", "x": 2**70},
    {"type": "function_call", "call_id": "c4", "name": 7, "arguments": {}},
]  # fmt: skip
