"""Tests of the one-slot mailbox, its worker, pairing by stamp and the frame policy."""

from __future__ import annotations

import threading

import pytest
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from sd_perception_ros.ros.input.mailbox import Mailbox, Worker
from sd_perception_ros.ros.input.pairing import CameraInfos, FramePolicy

SECOND = 1_000_000_000


def header(sec: int, frame_id: str = 'lens') -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec = sec
    return made


def test_a_new_item_replaces_an_item_that_was_not_taken():
    mailbox: Mailbox[str] = Mailbox()
    assert [mailbox.put('front', 'old'), mailbox.put('front', 'new')] == [False, True]
    assert mailbox.take() == ['new']
    assert mailbox.put('front', 'next') is False


def test_each_camera_has_a_slot_and_all_are_taken_together():
    mailbox: Mailbox[str] = Mailbox()
    replaced = [mailbox.put(*item) for item in (('front', 'a'), ('rear', 'b'), ('front', 'c'))]
    assert replaced == [False, False, True]
    assert mailbox.take() == ['c', 'b']


def test_a_closed_mailbox_returns_nothing_now_and_later():
    mailbox: Mailbox[str] = Mailbox()
    mailbox.put('front', 'lost')
    mailbox.close()
    mailbox.put('front', 'late')
    assert [mailbox.take(), mailbox.take()] == [[], []]


def test_closing_wakes_a_waiting_thread():
    mailbox: Mailbox[str] = Mailbox()
    got: list[list[str]] = []
    waiting = threading.Thread(target=lambda: got.append(mailbox.take()))
    waiting.start()
    mailbox.close()
    waiting.join(60)
    assert got == [[]]


def test_a_slow_worker_gets_the_first_and_the_newest_item():
    started, go_on, handled = threading.Event(), threading.Event(), []

    def handle(items: list[int]) -> None:
        handled.extend(items)
        started.set()
        go_on.wait(60)

    worker = Worker(handle)
    worker.put('front', 1)
    assert started.wait(60)
    replaced = [worker.put('front', item) for item in (2, 3, 4)]
    go_on.set()
    while len(handled) < 2 and worker.alive:
        pass
    worker.stop()
    assert handled == [1, 4]
    assert replaced == [False, True, True]
    assert not worker.alive


def info(sec: int, frame_id: str = 'lens', width: int = 64, height: int = 48) -> CameraInfo:
    return CameraInfo(header=header(sec, frame_id), width=width, height=height)


def test_an_image_is_matched_with_the_camera_info_of_its_stamp_without_checks():
    infos = CameraInfos()
    for width in (64, 65, 66):
        infos.add(info(width, width=width))
    assert infos.match(header(65), 64, 48).width == 65


def test_an_image_without_an_info_of_its_stamp_is_matched_with_the_latest_of_its_frame():
    infos = CameraInfos()
    for added in (info(1), info(2), info(3, 'other')):
        infos.add(added)
    assert infos.match(header(9), 64, 48).header.stamp.sec == 2
    assert infos.match(header(9, 'unknown'), 64, 48) is None
    infos.clear()
    assert infos.match(header(1), 64, 48) is None


def test_infos_of_another_resolution_are_not_used():
    infos = CameraInfos()
    infos.add(info(1))
    assert infos.match(header(9), 128, 96) is None
    infos.add(info(2, width=128, height=96))
    assert infos.match(header(9), 128, 96).width == 128
    assert infos.match(header(9), 64, 48).width == 64


def test_the_size_of_an_info_is_the_size_of_its_binned_region():
    infos = CameraInfos()
    binned = info(1, width=256, height=192)
    binned.binning_x = binned.binning_y = 2
    binned.roi.width, binned.roi.height = 128, 96
    infos.add(binned)
    assert infos.match(header(9), 64, 48) is binned
    assert infos.match(header(9), 256, 192) is None


def test_an_info_without_a_size_is_matched_so_that_its_error_is_reported():
    infos = CameraInfos()
    infos.add(info(1, width=0, height=0))
    assert infos.match(header(9), 64, 48).width == 0


def test_old_infos_are_removed():
    infos = CameraInfos()
    for sec in range(100):
        infos.add(info(sec))
    assert infos.match(header(0), 64, 48).header.stamp.sec == 99


@pytest.mark.parametrize(
    ('stamps', 'reasons'),
    [
        ([1, 2, 3], ['', '', '']),
        ([1, 1, 2], ['', 'stamp_not_later', '']),
        ([100, 50, 51], ['', '', '']),  # a bag that was restarted
        ([0, 0, 0], ['', '', '']),  # a driver without stamps
    ],
)
def test_a_stamp_that_is_not_later_is_dropped(stamps, reasons):
    policy = FramePolicy(max_age_s=0.0, drop_duplicates=True)
    assert [policy.reason_to_drop(s * SECOND, 0) for s in stamps] == reasons


def test_a_stamp_a_little_earlier_is_dropped():
    policy = FramePolicy(max_age_s=0.0, drop_duplicates=True)
    stamps = [SECOND, SECOND - 1, SECOND + 1]
    assert [policy.reason_to_drop(s, 0) for s in stamps] == ['', 'stamp_not_later', '']


def test_duplicates_are_processed_if_they_are_allowed():
    policy = FramePolicy(max_age_s=0.0, drop_duplicates=False)
    assert [policy.reason_to_drop(SECOND, 0) for _ in range(2)] == ['', '']


def test_a_frame_older_than_the_limit_is_dropped():
    policy = FramePolicy(max_age_s=0.5, drop_duplicates=True)
    now = 10 * SECOND
    assert policy.reason_to_drop(now - SECOND // 2 - 1, now) == 'too_old'
    assert policy.reason_to_drop(now - SECOND // 2, now) == ''


def test_the_age_of_a_frame_can_be_checked_again():
    policy = FramePolicy(max_age_s=0.5, drop_duplicates=True)
    assert [policy.reason_to_drop(SECOND, SECOND), policy.too_old(SECOND, SECOND)] == ['', '']
    assert policy.too_old(SECOND, 2 * SECOND) == 'too_old'
    assert policy.too_old(0, 2 * SECOND) == ''


def test_after_a_reset_any_stamp_is_accepted():
    policy = FramePolicy(max_age_s=0.0, drop_duplicates=True)
    policy.reason_to_drop(SECOND, 0)
    policy.reset()
    assert policy.reason_to_drop(SECOND, 0) == ''
