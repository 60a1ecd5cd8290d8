"""What each provider demands of a conversation, as checks: AssertionError says what is wrong."""

import json
import re

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_anthropic(request):
    """Anthropic's Messages API: alternating turns, no empty text, each tool use answered once, right after it."""
    assert set(request) <= {"messages", "system"}
    for block in request.get("system", []):
        assert set(block) == {"type", "text"}
        assert block["text"].strip()
    seen, waiting = set(), []
    turns = request["messages"]
    for index, turn in enumerate(turns):
        assert turn["role"] == ("user", "assistant")[index % 2]
        content = turn["content"]
        assert content
        results = [block for block in content if block["type"] == "tool_result"]
        assert content[: len(results)] == results, "results stand first"
        assert [block["tool_use_id"] for block in results] == waiting, "each use has one result, in the next turn"
        waiting = []
        for place, block in enumerate(content):
            match block["type"]:
                case "text":
                    assert block["text"].strip()
                case "tool_use":
                    assert turn["role"] == "assistant"
                    assert NAME.fullmatch(block["id"])
                    assert NAME.fullmatch(block["name"])
                    assert isinstance(block["input"], dict)
                    assert block["id"] not in seen
                    seen.add(block["id"])
                    waiting.append(block["id"])
                case "tool_result":
                    assert turn["role"] == "user"
                    parts = block.get("content", [])
                    for part in parts:
                        assert part["type"] in {"text", "image", "document", "search_result"}
                        assert part["type"] != "text" or part["text"].strip()
                    if block["is_error"]:
                        assert parts, "content cannot be empty if is_error is true"
                        assert {part["type"] for part in parts} == {"text"}, "all content is text if is_error is true"
                case "thinking":
                    assert turn["role"] == "assistant"
                    assert block["signature"]
                    assert place < len(content) - 1
                case "redacted_thinking":
                    assert block["data"]
                case "image":
                    check_picture(block["source"])
                case "document" | "search_result" | "container_upload":
                    assert turn["role"] == "user"
                case _:
                    raise AssertionError(block["type"])
    assert waiting == [], "a use without a result at the end"
    if turns and turns[-1]["role"] == "assistant" and turns[-1]["content"][-1]["type"] == "text":
        assert turns[-1]["content"][-1]["text"] == turns[-1]["content"][-1]["text"].rstrip()


def check_picture(source):
    match source["type"]:
        case "base64":
            assert source["media_type"] in {"image/jpeg", "image/png", "image/gif", "image/webp"}
            assert source["data"]
        case "url":
            assert source["url"].startswith(("https://", "http://"))
        case kind:
            assert kind == "file"


def check_openai_chat(request):
    """OpenAI's chat completions: every call is followed by its tool message, once, before anything else."""
    assert set(request) == {"messages"}
    seen, waiting = set(), []
    for message in request["messages"]:
        if message["role"] == "tool":
            assert isinstance(message["content"], str)
            assert message["tool_call_id"] in waiting
            waiting.remove(message["tool_call_id"])
            continue
        assert waiting == []
        match message["role"]:
            case "system" | "developer":
                assert message["content"].strip()
            case "user":
                assert message["content"]
                for part in message["content"]:
                    assert part["type"] in {"text", "image_url"}
                    assert part["type"] != "text" or part["text"].strip()
            case "assistant":
                assert message["content"] or message["tool_calls"]
                assert "tool_calls" not in message or message["tool_calls"]
                for call in message.get("tool_calls", []):
                    assert call["type"] == "function"
                    assert NAME.fullmatch(call["function"]["name"])
                    assert isinstance(json.loads(call["function"]["arguments"]), dict)
                    assert len(call["id"]) <= 40
                    assert call["id"] not in seen
                    seen.add(call["id"])
                    waiting.append(call["id"])
            case _:
                raise AssertionError(message["role"])
    assert waiting == []


def check_openai_responses(request):
    """OpenAI's responses: each function_call has one function_call_output; a reasoning item leads to something."""
    assert set(request) == {"input"}
    calls, outputs = [], []
    items = request["input"]
    for index, item in enumerate(items):
        match item["type"]:
            case "message":
                assert item["role"] in {"user", "assistant", "system", "developer"}
                assert item["content"]
                if item["role"] == "assistant":
                    assert isinstance(item["content"], str)
                else:
                    assert {part["type"] for part in item["content"]} <= {"input_text", "input_image"}
            case "function_call":
                assert NAME.fullmatch(item["name"])
                assert isinstance(json.loads(item["arguments"]), dict)
                assert 1 <= len(item["call_id"]) <= 64
                calls.append(item["call_id"])
            case "function_call_output":
                assert isinstance(item["output"], str)
                assert item["call_id"] in calls
                outputs.append(item["call_id"])
            case "reasoning":
                assert item["encrypted_content"]
                assert index + 1 < len(items)
                leads_to = items[index + 1]
                assert leads_to["type"] in {"function_call", "reasoning"} or leads_to["role"] == "assistant"
            case _:
                raise AssertionError(item["type"])
    assert len(set(calls)) == len(calls)
    assert sorted(calls) == sorted(outputs)


def check_all(messages):
    """Check a Messages state in every shape."""
    check_anthropic(messages.as_anthropic())
    check_openai_chat(messages.as_openai_chat())
    check_openai_responses(messages.as_openai_responses())
