"""A bot that tells nothing over RTVI: it greets, and that is all.

Run as ``python -m tests.calls.no_rtvi_bot -t webrtc --port N``.
"""

from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.runner.types import RunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

from bots.caller.speech.hibari import HibariTTSService


async def bot(runner_args: RunnerArguments) -> None:
    params = {"webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True)}
    transport = await create_transport(runner_args, params)
    pipeline = Pipeline([transport.input(), HibariTTSService(), transport.output()])
    worker = PipelineWorker(pipeline, enable_rtvi=False, idle_timeout_secs=None)

    @transport.event_handler("on_client_connected")
    async def on_client_connected(transport: object, client: object) -> None:
        await worker.queue_frame(TTSSpeakFrame("I am right on time, as ever."))

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport: object, client: object) -> None:
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
