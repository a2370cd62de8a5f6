"""A job as clients see it: OpenAI's video object, with more."""

from __future__ import annotations

from typing import Any

from ltx2rt.serve.jobs import Job
from ltx2rt.serve.live import Live


def job_view(job: Job, model: str, *, live: Live | None, position: int, max_age: float | None) -> dict[str, Any]:
    """The object.

    Args:
        job: from the store.
        model: name of the served one.
        live: of the running job.
        position: how many jobs run before it.
        max_age: seconds that a finished job is kept; None: without end.
    """
    decided, result = job.decided, job.result
    made = {**decided, **{name: result[name] for name in ("width", "height", "num_frames") if result.get(name)}}
    rate = result.get("frame_rate") or decided.get("frame_rate")
    frames = made.get("num_frames")
    size = f"{made['width']}x{made['height']}" if made.get("width") and made.get("height") else ""
    expires = None if max_age is None or job.completed_at is None else int(job.completed_at + max_age)
    finished = job.status == "completed"
    return {
        "id": job.id,
        "object": "video",
        "model": model,
        "status": job.status,
        "progress": 100 if finished else 0 if live is None else live.progress,
        "created_at": int(job.created_at),
        "started_at": None if job.started_at is None else int(job.started_at),
        "completed_at": None if job.completed_at is None else int(job.completed_at),
        "expires_at": expires,
        "size": size,
        "seconds": f"{frames / rate:g}" if frames and rate else "",
        "quality": "standard",
        "prompt": job.asked["settings"].get("prompt"),
        "error": job.error,
        "remixed_from_video_id": job.remixed_from,
        "peak_memory_mb": result.get("peak_memory_mb"),
        "inference_time_s": result.get("inference_time_s"),
        "stage_durations": result.get("stages"),
        "media_type": media_type(job) if finished else None,
        "has_sound": result.get("has_sound"),
        "bytes": result.get("bytes"),
        "pipeline": decided["pipeline"],
        "output": decided["output"],
        "seed": decided.get("seed"),
        "num_frames": frames,
        "frame_rate": rate,
        "queue_position": position if job.status == "queued" else None,
        "stage": None if live is None else live.stage,
        "step": None if live is None else live.step,
        "steps": None if live is None else live.of,
        "seconds_left": None if live is None else live.seconds_left,
        "previews": 0 if live is None else live.previews,
        "settings": job.asked["settings"],
        "output_options": job.asked["output"],
        "loras": job.asked["loras"],
        "plan": decided["plan"],
        "notices": decided["notices"],
    }


def media_type(job: Job) -> str:
    """Of the result of a job."""
    return "video/mp4" if job.decided["output"] == "video" else "audio/wav"
