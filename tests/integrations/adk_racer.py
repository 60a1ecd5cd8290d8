"""What test_adk_runner.py runs in two processes at once: each appends to one session until it has appended so many events.

python adk_racer.py STORE NAME COUNT: waits for a line on its input, then prints how often it was refused as stale.
"""

import asyncio
import sys

from google.adk.events.event import Event
from google.genai import types

from everlog.integrations.adk import EverlogSessionService, StaleSessionError

WHO = {"app_name": "trips", "user_id": "u7", "session_id": "race"}


async def main(place, name, count):
    async with EverlogSessionService(place) as service:
        session = await service.get_session(**WHO)
        print("ready", flush=True)
        sys.stdin.readline()
        refused = done = 0
        while done < count:
            content = types.Content(role="model", parts=[types.Part(text=f"{name}{done}")])
            event = Event(author=name, invocation_id="e-1", content=content, timestamp=1_800_000_000.0)
            event.actions.state_delta = {name: done, f"app:{name}": done}
            try:
                await service.append_event(session, event)
                done += 1
            except StaleSessionError:
                refused += 1
                session = await service.get_session(**WHO)
        print(refused, flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
