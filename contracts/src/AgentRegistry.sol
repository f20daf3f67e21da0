// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Governed} from "./Governed.sol";

/// @notice What the registry holds about an agent.
struct Agent {
    /// 0 none, 1 active, 2 paused, 3 revoked.
    uint8 status;
    /// Looked up in PolicyRegistry.
    bytes32 policyId;
    /// SHA-256 of the model that must act, 0 for any.
    bytes32 model;
    /// Salted hash of the organisation.
    bytes32 organisation;
    /// Digest of the declared capabilities.
    bytes32 capabilities;
}

/// @title Which agents may act, and under which policy.
/// @notice An agent key is keccak256(salt, SPIFFE ID): the salt is disclosed to targets and in evidence only.
contract AgentRegistry is Governed {
    uint8 public constant NONE = 0;
    uint8 public constant ACTIVE = 1;
    uint8 public constant PAUSED = 2;
    uint8 public constant REVOKED = 3;

    mapping(bytes32 key => Agent) private _agents;

    event AgentRegistered(
        bytes32 indexed key, bytes32 indexed policyId, bytes32 indexed organisation, bytes32 model, bytes32 capabilities
    );
    event AgentUpdated(
        bytes32 indexed key, bytes32 indexed policyId, bytes32 indexed organisation, bytes32 model, bytes32 capabilities
    );
    event AgentPaused(bytes32 indexed key, address indexed by);
    event AgentRevoked(bytes32 indexed key, address indexed by, bytes32 indexed reason);
    event AgentReinstated(bytes32 indexed key);

    error AgentExists(bytes32 key);
    error AgentUnknown(bytes32 key);
    /// @notice The agent's status does not permit this.
    error AgentStatus(bytes32 key, uint8 status);

    constructor(address timelock_, address multisig_, address guardian_) Governed(timelock_, multisig_, guardian_) {}

    /// @notice The agent with this key; status 0 when unknown.
    function agentOf(bytes32 key) external view returns (Agent memory) {
        return _agents[key];
    }

    /// @notice Registers a new agent as active.
    function register(bytes32 key, bytes32 policyId, bytes32 model, bytes32 organisation, bytes32 capabilities)
        external
        onlyTimelock
    {
        if (key == 0 || policyId == 0) revert ZeroValue();
        if (_agents[key].status != NONE) revert AgentExists(key);
        _agents[key] = Agent(ACTIVE, policyId, model, organisation, capabilities);
        emit AgentRegistered(key, policyId, organisation, model, capabilities);
    }

    /// @notice Changes what an agent is bound to; its status stays as it is.
    function update(bytes32 key, bytes32 policyId, bytes32 model, bytes32 organisation, bytes32 capabilities)
        external
        onlyTimelock
    {
        if (policyId == 0) revert ZeroValue();
        uint8 status = _known(key);
        if (status == REVOKED) revert AgentStatus(key, status);
        _agents[key] = Agent(status, policyId, model, organisation, capabilities);
        emit AgentUpdated(key, policyId, organisation, model, capabilities);
    }

    /// @notice Stops an agent for now.
    function pause(bytes32 key) external onlyGuardianOrTimelock {
        uint8 status = _known(key);
        if (status != ACTIVE) revert AgentStatus(key, status);
        _agents[key].status = PAUSED;
        emit AgentPaused(key, msg.sender);
    }

    /// @notice Stops an agent, with a reason in short ASCII. Only the owners can take this back.
    function revoke(bytes32 key, bytes32 reason) external onlyGuardianOrTimelock {
        uint8 status = _known(key);
        if (status == REVOKED) revert AgentStatus(key, status);
        _agents[key].status = REVOKED;
        emit AgentRevoked(key, msg.sender, reason);
    }

    /// @notice Lets a paused or revoked agent act again.
    function reinstate(bytes32 key) external onlyTimelock {
        uint8 status = _known(key);
        if (status == ACTIVE) revert AgentStatus(key, status);
        _agents[key].status = ACTIVE;
        emit AgentReinstated(key);
    }

    function _known(bytes32 key) private view returns (uint8 status) {
        status = _agents[key].status;
        if (status == NONE) revert AgentUnknown(key);
    }
}
