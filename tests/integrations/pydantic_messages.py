"""Messages of Pydantic AI, for tests."""

from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart


def asked(text):
    return ModelRequest(parts=[UserPromptPart(text)])


def answered(text):
    return ModelResponse(parts=[TextPart(text)])


def texts(messages):
    return [part.content for message in messages for part in message.parts]
