"""What a served engine answers, by real HTTP."""

from __future__ import annotations

import json
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.simulate.serving import prompt, serving, wait_until


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Four ranks with the delayer, everything twenty times as fast."""
    directory = tmp_path_factory.mktemp("serve") / "run"
    options = ("--dp-size", "4", "--enable-prefill-delayer", "--time-scale", "0.05")
    with serving(directory, *options) as served:
        yield served


def test_a_prompt_is_answered_as_by_an_engine(engine):
    """Clients read the rank, the id and the counts from the answer."""
    answer = engine.generate(**prompt(100, rid="one-0", bootstrap_room=6))
    assert len(answer["output_ids"]) == 1
    about = answer["meta_info"]
    assert (about["id"], about["prompt_tokens"], about["completion_tokens"]) == ("one-0", 100, 1)
    assert about["finish_reason"]["type"] == "length"
    assert about["dp_rank"] == 6 % 4
    assert about["simulated"] is True
    order = [
        "request_received_ts", "api_server_dispatch_finish_ts", "forward_entry_time",
        "prefill_finished_time", "request_finished_ts", "response_sent_to_client_ts",
    ]  # fmt: skip
    times = [about[name] for name in order]
    assert times == sorted(times)


def test_prompts_of_one_post_are_answered_in_order(engine):
    """A list comes back as a list, each on the rank that its room says."""
    lengths = [5, 40, 3, 8, 21]
    rooms = [0, 3, 2, 1, 3]
    rids = [f"many-{n}" for n in lengths]
    answer = engine.generate(input_ids=[[1] * n for n in lengths], bootstrap_room=rooms, rid=rids)
    about = [one["meta_info"] for one in answer]
    assert [one["prompt_tokens"] for one in about] == lengths
    assert [one["id"] for one in about] == rids
    assert [one["dp_rank"] for one in about] == rooms


def test_ranks_are_chosen_by_field_room_or_turn(engine):
    """The rank's field beats the room; without either a fake peer's requests go round."""
    assert (
        engine.generate(**prompt(4, routed_dp_rank=3, bootstrap_room=1))["meta_info"]["dp_rank"]
        == 3
    )
    assert engine.generate(**prompt(4, data_parallel_rank=2))["meta_info"]["dp_rank"] == 2
    ranks = Counter(engine.generate(**prompt(4))["meta_info"]["dp_rank"] for _ in range(8))
    assert ranks == {0: 2, 1: 2, 2: 2, 3: 2}


def test_text_is_taken_without_a_tokenizer(engine):
    """Four bytes are reckoned as a token."""
    answer = engine.generate(text="x" * 401)
    assert answer["meta_info"]["prompt_tokens"] == 101


def test_streams_send_the_one_token_and_end(engine):
    """Clients that stream wait for [DONE]."""
    status, headers, content = engine.ask("/generate", prompt(9, stream=True, rid="s-0"))
    assert status == 200
    assert headers["Content-Type"].startswith("text/event-stream")
    events = [e.removeprefix("data: ") for e in content.decode().split("\n\n") if e]
    assert json.loads(events[0])["meta_info"]["id"] == "s-0"
    assert events[1:] == ["[DONE]"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"\xff\xfe", ""),
        (b"[]", "Expected `object`"),
        (b'{"input_ids": [1, NaN]}', "malformed"),
        (b"[" * 100_000, ""),
        ({}, "should be provided"),
        ({"text": "a", "input_ids": [1]}, "should be provided"),
        ({"input_ids": []}, "cannot be empty"),
        ({"input_ids": [[1], []]}, "cannot be empty"),
        ({"input_ids": [1, [2]]}, "mixed"),
        ({"input_ids": "1,2"}, "Expected `array | null`"),
        ({"input_ids": [1.5]}, "Expected"),
        ({"input_ids": [-1]}, "Expected"),
        ({"input_ids": [1], "stream": "yes"}, "Expected `bool`"),
        ({"input_ids": [1], "bootstrap_room": -1}, "Expected"),
        ({"input_ids": [1], "bootstrap_room": 1 << 63}, ""),
        ({"input_ids": [1], "routed_dp_rank": 4}, "out of range [0, 4)"),
        ({"input_ids": [1], "routed_dp_rank": -1}, "out of range [0, 4)"),
        ({"input_ids": [[1], [2]], "rid": ["a"]}, "length mismatch"),
        ({"input_ids": [[1], [2]], "rid": ["a", "a"]}, "Duplicate"),
        ({"input_ids": [[1], [2]], "bootstrap_room": [1]}, "one for each prompt"),
        ({"input_ids": [1], "sampling_params": {"max_new_tokens": -1}}, "at least 0"),
        ({"input_ids": [1], "sampling_params": {"n": 2}}, "not simulated"),
        ({"input_ids": [7] * 40960}, "longer than the model's context length (40960 tokens)"),
    ],
)
def test_wrong_input_is_refused_with_400_and_a_reason(engine, body, why):
    """As the engine does: an answer that says what is wrong, and the next post is served."""
    status, _, content = engine.ask("/generate", body, method="POST")
    assert status == 400
    told = json.loads(content)
    assert why in (told["message"] if "message" in told else told["error"]["message"])
    assert engine.generate(**prompt(3))["meta_info"]["prompt_tokens"] == 3


def test_an_id_under_way_is_not_taken_again(engine):
    """Two open requests of one id could not be told apart."""
    rids = [f"twice-{k}" for k in range(8)]
    body = {"input_ids": [[1] * 30_000] * 8, "rid": rids, "bootstrap_room": [0] * 8}
    with ThreadPoolExecutor() as pool:
        under_way = pool.submit(engine.ask, "/generate", body)
        wait_until(lambda: engine.ask("/flush_cache", b"")[0] == 400)
        assert engine.ask("/generate", prompt(3, rid="twice-7"))[0] == 400
        assert under_way.result()[0] == 200
    assert engine.generate(**prompt(3, rid="twice-7"))["meta_info"]["id"] == "twice-7"


def test_other_paths_and_methods(engine):
    """404 and 405, as the engine's server says them."""
    assert engine.ask("/v1/nothing")[0] == 404
    status, headers, _ = engine.ask("/generate")
    assert (status, headers["Allow"]) == (405, "POST, PUT")
    assert engine.ask("/generate", prompt(3), method="PUT")[0] == 200


def test_bodies_are_bounded(engine):
    """A length beyond the bound is refused before any of it is read."""
    host, port = urlsplit(engine.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_is_cut_off_harms_nobody(engine):
    """A client that goes away in the middle leaves the engine serving."""
    host, port = urlsplit(engine.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert engine.generate(**prompt(3))["meta_info"]["prompt_tokens"] == 3


def test_it_says_what_it_is_by_both_names(engine):
    """Clients ask for the release, the number of ranks and the mode."""
    for name in ("/server_info", "/get_server_info"):
        status, _, content = engine.ask(name)
        about = json.loads(content)
        assert (status, about["version"], about["dp_size"]) == (200, "0.5.13", 4)
        assert (about["disaggregation_mode"], about["simulated"]) == ("prefill", True)
        assert about["enable_prefill_delayer"] is True
    assert json.loads(engine.ask("/model_info")[2])["is_generation"] is True


def test_health_runs_a_token_on_rank_0(engine):
    """The probe of a real engine leaves an iteration, and so does this one."""
    before = read_counter(engine, "num_requests_total")
    for path in ("/health", "/health_generate"):
        assert engine.ask(path)[0] == 200
    assert read_counter(engine, "num_requests_total") == before + 2


def test_metrics_count_on(engine):
    """Tokens, requests and outcomes grow by what was sent, also on an engine that idles."""
    tokens = read_counter(engine, "realtime_tokens_total")
    allowed = read_counter(engine, 'output_reason="wait_timeout"')
    idle = read_counter(engine, 'input_estimation="none"')
    engine.generate(**prompt(123, routed_dp_rank=1))
    assert read_counter(engine, "realtime_tokens_total") == tokens + 123
    assert read_counter(engine, 'output_reason="wait_timeout"') == allowed + 4
    assert read_counter(engine, 'input_estimation="none"') > idle
    status, headers, content = engine.ask("/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'sglang:num_queue_reqs{dp_rank="3"' in content


def test_the_cache_is_flushed_only_when_idle(tmp_path):
    """A load client flushes before each repeat and relies on the refusal."""
    with serving(tmp_path / "run", "--dp-size", "2", "--cost", "floor=1.0") as slow:
        assert slow.ask("/flush_cache", b"")[0] == 200
        host, port = urlsplit(slow.url).netloc.split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            body = json.dumps(prompt(5)).encode()
            head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            refused = 0
            while not refused:
                status, _, content = slow.ask("/flush_cache", b"")
                refused = status == 400 and b"pending requests" in content
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert slow.ask("/flush_cache", b"")[0] == 200
        assert slow.stop() == 0
    log = (tmp_path / "run" / "server.log").read_text()
    assert log.count("Cache flushed successfully!") >= 2 * 2  # flushes, ranks
    assert "Cache not flushed because there are pending requests. #queue-req: 0" in log


def test_overload_is_queued(engine):
    """A hundred prompts of several passes each are all answered, none is refused."""
    bodies = [prompt(9000, rid=f"over-{k}", bootstrap_room=k) for k in range(64)]
    answers = engine.generate_at_once(bodies)
    assert [status for status, _ in answers] == [200] * 64
    waits = [answer["meta_info"]["queue_time"] for _, answer in answers]
    assert max(waits) > 10 * min(waits)


def read_counter(engine, mark):
    """Sum of the samples that hold a text."""
    lines = engine.ask("/metrics")[2].decode().splitlines()
    return sum(float(x.rpartition(" ")[2]) for x in lines if mark in x and x[0] != "#")
