"""The queue in front of mlx_lm.server's batch: order, refusals, and nothing left behind."""

from __future__ import annotations

from queue import Queue
from types import SimpleNamespace

import pytest

from semantic import BlockPool, CacheManager
from semantic.adapters.mlx_lm.queued import queued_batch, queued_generator
from semantic.adapters.mlx_lm.request_queue import NOT_COPIED, RequestQueue, RequestRefused
from semantic.mlx import probe

MODEL = "the model"


class Clock:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    def time(self):
        return self.now


class Server:
    """What mlx_lm.server does with an queue, without computing anything."""

    def __init__(self, model, rows=2, longest=300, **options):
        self.spec = probe(model)
        limit = self.spec.live_batch_peak_bytes([longest] * rows, 256)
        self.pool = BlockPool(self.spec, total_memory=limit)
        self.memory = CacheManager(self.spec, self.pool)._memory
        self.known = True
        self.clock = Clock()
        self.queue = RequestQueue(
            lambda key: self.memory if self.known and key == MODEL else None,
            lambda: MODEL,
            limit_bytes=limit,
            prefill_step=256,
            wait_seconds=60,
            clock=self.clock,
            **options,
        )
        self.uid = 0

    def ask(self, tokens, new_tokens=10, model=MODEL):
        request = SimpleNamespace(tokens=tokens)
        args = SimpleNamespace(model=model, max_tokens=new_tokens)
        answers = Queue()
        self.queue.ask((answers, request, args))
        return answers

    def tokenise(self, request, args):
        if request.tokens is None:
            raise ValueError("no template")
        return list(range(request.tokens)), ["segments"]

    def take(self):
        """One turn of the server's loop: the uid of who joined the batch, or None."""
        self.queue.settle()
        taken = self.queue.first(self.tokenise)
        if taken is None:
            return None
        answers, request, args = taken
        try:
            self.queue.tokenised(request, args, lambda: self.tokenise(request, args))
        except Exception as error:
            answers.put(error)
            return None
        self.uid += 1
        self.queue.inserted([self.uid])
        return self.uid

    def step(self, *finished):
        """The batch computes; these are done."""
        self.queue.settle()
        generated = [
            SimpleNamespace(uid=uid, finish_reason="stop", prompt_cache=["kept"])
            for uid in finished
        ]
        self.queue.stepped([], generated, 0)
        return generated


@pytest.fixture
def server(model_of):
    return Server(model_of("llama"))


def refusal(answers):
    error = answers.get_nowait()
    assert isinstance(error, RequestRefused)
    return error


def test_requests_run_while_there_is_room_and_then_wait_in_order(server):
    for tokens in (200, 200, 200, 10):
        server.ask(tokens)
    assert [server.take() for _ in range(4)] == [1, 2, None, None]
    assert server.queue.stats() == {
        "waiting": 2,
        "running": 2,
        "admitted": 2,
        "refused": 0,
        "waited_seconds": 0.0,
    }
    (answer,) = server.step(2)
    server.clock.now += 5
    # The small one would fit beside the first at once; it waits for its turn.
    assert server.take() == 3
    assert server.take() is None
    assert answer.prompt_cache is None
    server.step(1, 3)
    assert server.take() == 4
    server.step(4)
    assert server.take() is None
    assert server.pool.used_memory() == 0
    assert server.queue.stats()["waited_seconds"] == 10.0


def test_the_bytes_of_who_finished_are_free_only_when_the_server_is_done_with_them(server):
    server.ask(280)
    assert server.take() == 1
    used = server.pool.used_memory()
    server.step(1)
    assert server.pool.used_memory() == used
    server.queue.settle()
    assert server.pool.used_memory() == 0


def test_what_can_never_fit_is_refused_at_once(server):
    answers = server.ask(5000)
    small = server.ask(10)
    assert server.take() is None  # the first request of a model is tried once it is loaded
    error = refusal(answers)
    assert error.status == 413
    assert error.retry_after_seconds is None
    assert "5000 tokens" in str(error)
    assert server.take() == 1
    again = server.ask(5000)
    assert server.take() is None
    assert refusal(again).status == 413
    assert small.empty()
    assert server.queue.stats()["refused"] == 2


def test_as_many_tokens_are_promised_as_there_is_memory_for(server):
    request, args = SimpleNamespace(tokens=100), SimpleNamespace(model=MODEL, max_tokens=1 << 40)
    server.queue.tokenised(request, args, lambda: server.tokenise(request, args))
    assert 100 < args.max_tokens < 10_000
    assert server.pool.used_memory() <= server.pool.total_memory()


def test_who_waits_too_long_is_told_when_to_ask_again(server):
    for _ in range(2):
        server.ask(250)
        assert server.take() is not None
    late = server.ask(250)
    assert server.take() is None
    server.clock.now += 30
    later = server.ask(250)
    server.clock.now += 31
    assert server.take() is None
    error = refusal(late)
    assert (error.status, error.retry_after_seconds) == (503, 1)
    assert later.empty()
    server.step(1, 2)
    assert server.take() == 3
    last = [server.ask(280), server.ask(280)]
    server.clock.now += 61
    # Late as they are: the first may run, and does.
    assert server.take() == 4
    assert server.take() is None
    assert last[0].empty()
    assert refusal(last[1]).retry_after_seconds == 61  # as long as the last ones ran


def test_a_budget_that_has_shrunk_promises_what_it_has(server):
    server.ask(10)
    server.take()
    server.step(1)
    server.queue.settle()
    server.pool.budget.resize(server.pool.total_memory() // 2)
    server.ask(100, new_tokens=1 << 40)
    assert server.take() == 2
    assert server.pool.used_memory() <= server.pool.budget.total
    server.step(2)
    server.queue.settle()
    # Nobody's end would bring more: an answer now, and the next one's turn.
    too_long = server.ask(900)
    server.ask(10)
    assert server.take() == 3
    assert refusal(too_long).status in (413, 503)


def test_a_hit_is_restored_only_where_there_is_room_for_its_copy(server):
    server.ask(280)
    server.take()
    request, args = SimpleNamespace(tokens=280), SimpleNamespace(model=MODEL, max_tokens=5)
    server.queue.tokenised(request, args, lambda: server.tokenise(request, args))
    before = server.pool.snapshot().staging
    assert server.queue.may_restore(0)
    assert not server.queue.may_restore(256)
    assert server.pool.snapshot().staging == before
    server.queue.removed([1])
    assert server.queue.may_restore(256)
    assert server.queue.may_restore(256)
    assert server.pool.snapshot().staging == server.spec.live_bytes(256)
    server.queue.served()
    assert server.pool.used_memory() == 0


def test_another_model_waits_until_the_batch_is_dry_and_nobody_overtakes(server):
    server.ask(100)
    assert server.take() == 1
    other = server.ask(100, model="another")
    server.ask(10)
    assert server.take() is None
    assert other.empty()
    server.step(1)
    assert server.take() == 2
    assert server.take() is None  # the next asks for the first model again
    server.step(2)
    assert server.take() == 3


def test_a_model_that_cannot_be_counted_is_refused(server):
    server.known = False
    answers = server.ask(10)
    assert server.take() is None
    assert refusal(answers).status == 501


def test_what_the_server_cannot_tokenise_leaves_nothing_behind(server):
    server.ask(10)
    assert server.take() == 1
    answers = server.ask(None)
    assert server.take() is None
    assert isinstance(answers.get_nowait(), ValueError)
    server.step(1)
    assert server.take() is None
    assert server.pool.used_memory() == 0


def test_who_runs_alone_is_charged_while_it_does(server):
    request, args = SimpleNamespace(tokens=100), SimpleNamespace(model=MODEL, max_tokens=5)
    server.queue.tokenised(request, args, lambda: server.tokenise(request, args))
    assert server.pool.snapshot().live > 0
    server.queue.served()
    assert server.pool.used_memory() == 0


def test_who_leaves_the_batch_unfinished_leaves_its_bytes(server):
    for _ in range(2):
        server.ask(200)
        server.take()
    server.queue.removed([1])
    assert server.pool.used_memory() > 0
    server.queue.emptied()
    assert server.pool.used_memory() == 0


def test_copies_that_there_is_no_room_for_are_not_made(server):
    server.ask(280)
    server.ask(280)
    assert [server.take(), server.take()] == [1, 2]
    free = server.pool.total_memory() - server.pool.used_memory()
    small, large = ([SimpleNamespace(nbytes=n)] for n in (free, free + 1))
    kept = server.queue.copied({1: (small, [1]), 2: (large, [2])})
    assert kept == {1: (small, [1]), 2: (NOT_COPIED, [2])}
    server.queue.settle()
    assert server.pool.snapshot().staging == 0


def test_more_than_was_charged_is_counted(server):
    server.ask(10)
    server.take()
    server.queue.stepped([], [], server.pool.used_memory())
    assert server.memory.counters.as_dict()["failures"] == {}
    server.queue.stepped([], [], server.pool.used_memory() + 1)
    assert server.memory.counters.as_dict()["failures"] == {"undercharged": 1}


def test_who_still_waits_at_the_end_is_told(server):
    server.ask(280)
    server.ask(280)
    server.take()
    server.take()
    answers = server.ask(280)
    server.take()
    server.queue.close()
    assert refusal(answers).status == 503
    assert server.pool.used_memory() == 0


class Generator:
    """What mlx_lm.server's ResponseGenerator has, over a list of requests."""

    model_provider = SimpleNamespace(tokenizer=None)

    def __init__(self, taken):
        self.cli_args = SimpleNamespace(prefill_step_size=2048)
        self.queue = list(taken)
        self.steps = []

    def _next_request(self, timeout=None):
        return self.queue.pop(0) if self.queue else None

    def _tokenize(self, tokenizer, request, args):
        return list(range(request.tokens)), ["segments"]

    def _serve_single(self, request, stream):
        self._tokenize(None, *request[1:])
        self.steps.append(self.cli_args.prefill_step_size)

    def _run_generate(self):
        pass


class Batch:
    """What mlx-lm's BatchGenerator has, with one sequence that is done at once."""

    prompt_cache_nbytes = 7

    def __init__(self, model):
        self.prefill_batch_size, self.prefill_step_size = 8, 2048

    def insert_segments(self, segments):
        return [5]

    def next(self):
        return [], [SimpleNamespace(uid=5, finish_reason="stop", prompt_cache=[])]

    def extract_cache(self, uids):
        return {uid: ([], []) for uid in uids}

    def remove(self, uids):
        return {}

    def close(self):
        pass


def taken(tokens):
    args = SimpleNamespace(model=MODEL, max_tokens=3)
    return Queue(), SimpleNamespace(tokens=tokens), args


def test_the_servers_classes_go_through_the_queue(server):
    generator = queued_generator(Generator, server.queue, lambda: None)([taken(20), taken(30)])
    batch = queued_batch(Batch, server.queue)("a model")
    assert batch.prefill_batch_size == 1
    first = generator._next_request(0.1)
    assert first[1].tokens == 20
    assert generator._tokenize(None, *first[1:])[0] == list(range(20))
    assert batch.insert_segments([["segments"]]) == [5]
    assert batch.prefill_step_size == 256
    assert list(batch.extract_cache([5])) == [5]
    batch.next()
    second = generator._next_request(None)
    assert second[1].tokens == 30
    generator._serve_single(second, None)
    assert generator.steps == [256]
    assert generator.cli_args.prefill_step_size == 2048
    assert server.pool.used_memory() == 0
    generator._run_generate()


def test_a_batch_that_is_closed_twice_ends_only_its_own_rows(server):
    generator = queued_generator(Generator, server.queue, lambda: None)([])
    batch = queued_batch(Batch, server.queue)("a model")
    batch.close()
    generator._tokenize(None, *taken(5)[1:])
    batch.insert_segments([])
    batch.close()  # as when it is collected, and by then others run
    assert server.pool.used_memory() > 0
    generator._run_generate()
    assert server.pool.used_memory() == 0


def test_who_waits_is_not_kept_waiting_for_somebody_to_come(server):
    asked_for = []

    class Slow(Generator):
        def _next_request(self, timeout=None):
            asked_for.append(timeout)
            return super()._next_request(timeout)

    generator = queued_generator(Slow, server.queue, lambda: None)([taken(5), taken(6)])
    assert generator._next_request(0.1)[1].tokens == 5
    generator._serve_single((None, SimpleNamespace(tokens=5), taken(5)[2]), None)
    assert generator._next_request(0.1)[1].tokens == 6
    assert 0.1 not in asked_for
    generator._serve_single((None, SimpleNamespace(tokens=6), taken(6)[2]), None)
    assert generator._next_request(0.1) is None
    assert asked_for[-1] == 0.1


def test_the_memory_goes_with_the_generation_thread(server):
    server.ask(10)
    server.take()
    assert server.queue._charge is not None
    server.queue.close()
    assert server.queue._charge is None


def test_a_failure_of_the_admission_never_ends_the_generation_thread(server, monkeypatch, caplog):
    generator = queued_generator(Generator, server.queue, lambda: None)([taken(5), taken(6)])
    batch = queued_batch(Batch, server.queue)("a model")
    for name in ("settle", "first", "served", "close", "inserted", "stepped", "copied", "removed"):
        monkeypatch.setattr(server.queue, name, lambda *_: 1 / 0)
    assert generator._next_request(None) is None
    assert batch.insert_segments([]) == [5]
    assert batch.next()[1][0].uid == 5
    assert batch.extract_cache([5]) == {5: (NOT_COPIED, [])}
    assert batch.remove([5]) == {}
    generator._run_generate()
    assert "ZeroDivisionError" in caplog.text
