"""What is built to learn does learn: small tasks, past a threshold."""

from headstart.stages.reinforce import ReinforceConfig, reinforce


def test_reinforcement_learns_to_reach_a_point(tiny, tmp_path):
    config = ReinforceConfig(
        task="tiny/reach",
        env_steps=40_000,
        stop_at_success=0.9,
        eval_every_steps=2_000,
        eval_episodes=50,
        max_episode_steps=25,
        num_envs=16,
        num_steps=25,
        hidden_size=32,
        num_minibatches=2,
    )
    result = reinforce(config, tmp_path / "run")
    rates = [point["success_rate"] for point in result["curve"]]
    assert rates[0] < 0.5, "chance alone must not pass"
    assert result["reached"] and min(rates[-2:]) >= 0.9
