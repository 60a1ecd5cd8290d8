"""An agent of Google ADK whose model says what stands in its script, for tests."""

from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.genai import types


class Scripted(BaseLlm):
    """Says what stands in its script, one line a call; notes what it was shown. Where it streams, the first half comes first."""

    script: list[types.Part]
    shown: list[list[str]] = []

    async def generate_content_async(self, llm_request, stream=False):
        self.shown.append([shown(content) for content in llm_request.contents])
        part = self.script.pop(0)
        if stream and part.text:
            half = types.Part(text=part.text[: len(part.text) // 2])
            yield LlmResponse(content=types.Content(role="model", parts=[half]), partial=True)
        yield LlmResponse(content=types.Content(role="model", parts=[part]))


def shown(content):
    part = content.parts[0]
    if part.function_call:
        return f"call {part.function_call.name}"
    return f"result {part.function_response.response}" if part.function_response else part.text


def scripted(*script):
    return Scripted(model="scripted", script=list(script), shown=[])


def text(said):
    return types.Part(text=said)


def call(name, id=None, **arguments):
    return types.Part(function_call=types.FunctionCall(id=id, name=name, args=arguments))
